// `attention_reduce`, a subgroup for 32 dimensions of a head (lib/joined_quad), and its result quantized to INT8 in blocks
// of 32 on the way out; heads are whole blocks.
// needs: joined_quad (BLOCKS, joined_quad), quantize_quad (quantized_quad)
@group(0) @binding(0) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> y_scales: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let block = ((id.x + id.z * 32768u) * WORKGROUP + thread) / SUBGROUP_SIZE;
  let lane = thread % SUBGROUP_SIZE;
  let part = quantized_quad(joined_quad(min(block, BLOCKS - 1u), lane), lane, STRIDE);
  if (block < BLOCKS && lane < 8u && lane % 4u == 0u) {
    y[block * 2u + lane / 4u] = part.words;
    if (lane == 0u) { y_scales[block] = part.scale; }
  }
}
