// `attention_reduce`, and its result quantized to INT8 in blocks of 32 on the way out. A workgroup takes one head of one
// token; heads are whole blocks.
// needs: attention_parts (THREADS, QUADS, reduce_parts, lane_sums), own_quads (OWN, own_quad, store_own)
@group(0) @binding(0) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> y_scales: array<f32>;

const WORKGROUP: u32 = THREADS;
const HEAD_BLOCKS: u32 = HEAD_DIM / 32u;
var<private> head: u32;

fn store_words(i: u32, words: vec4<u32>) { y[head * HEAD_BLOCKS * 2u + i] = words; }
fn store_scale(block: u32, scale: f32) { y_scales[head * HEAD_BLOCKS + block] = scale; }

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  head = id.y * HEADS + id.x;
  reduce_parts(head, thread);
  var v: array<vec4<f32>, OWN>;
  for (var n = 0u; n < OWN; n++) { v[n] = lane_sums[min(own_quad(n, thread), QUADS - 1u)]; }
  store_own(v, thread, STRIDE);
}
