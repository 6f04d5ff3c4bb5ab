// Puts the splits of `attention_split` together (lib/attention_parts). A workgroup takes one head of one token.
// needs: attention_parts (THREADS, reduce_parts, QUADS, lane_sums)
@group(0) @binding(0) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<y_type>>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = id.y * HEADS + id.x;
  reduce_parts(head, thread);
  for (var turn = 0u; turn < (QUADS + THREADS - 1u) / THREADS; turn++) {
    let quad = turn * THREADS + thread;
    if (quad < QUADS) { y[head * QUADS + quad] = vec4<y_type>(lane_sums[quad]); }
  }
}
