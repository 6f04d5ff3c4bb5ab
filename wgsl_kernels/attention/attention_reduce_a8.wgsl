// `attention_reduce`, and its result quantized to INT8 in blocks of 32 on the way out. A workgroup takes one head of one
// token; heads are whole blocks.
// needs: attention_parts (THREADS, reduce_parts, lane_sums), quantize_block (quantized_block)
@group(0) @binding(0) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> y_scales: array<f32>;

const HEAD_BLOCKS: u32 = HEAD_DIM / 32u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = id.y * HEADS + id.x;
  reduce_parts(head, thread);
  for (var turn = 0u; turn < (HEAD_BLOCKS + THREADS - 1u) / THREADS; turn++) {
    let b = turn * THREADS + thread;
    if (b >= HEAD_BLOCKS) { break; }
    var v: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) { v[i] = lane_sums[b * 8u + i]; }
    let q = quantized_block(v, STRIDE);
    let to = head * HEAD_BLOCKS + b;
    y[to * 2u] = q.a;
    y[to * 2u + 1u] = q.b;
    y_scales[to] = q.scale;
  }
}
