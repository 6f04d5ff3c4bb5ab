// Puts the splits of `attention_split` together (lib/attention_parts.wgsl). A workgroup takes one head of one token, a
// thread four dimensions.
@group(0) @binding(0) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<y_type>>;

const QUADS: u32 = HEAD_DIM / 4u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = id.y * HEADS + id.x;
  for (var quad = thread; quad < QUADS; quad += 64u) {
    y[head * QUADS + quad] = vec4<y_type>(reduced(head, quad));
  }
}
