// Puts the splits of `attention_split` together, a subgroup for 32 dimensions of a head (lib/joined_quad).
// needs: joined_quad (HEAD_BLOCKS, BLOCKS, QUADS, joined_quad)
@group(0) @binding(0) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<y_type>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let block = ((id.x + id.z * 32768u) * WORKGROUP + thread) / SUBGROUP_SIZE;
  let lane = thread % SUBGROUP_SIZE;
  let v = joined_quad(min(block, BLOCKS - 1u), lane);
  let quad = block % HEAD_BLOCKS * 8u + lane;
  if (block < BLOCKS && lane < 8u && quad < QUADS) { y[block / HEAD_BLOCKS * QUADS + quad] = vec4<y_type>(v); }
}
