// y = a + FACTOR * b, element by element.
@group(0) @binding(0) var<storage, read> a: array<a_type>;
@group(0) @binding(1) var<storage, read> b: array<b_type>;
@group(0) @binding(2) var<storage, read_write> y: array<y_type>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= WIDTH) { return; }
  let i = id.y * WIDTH + id.x;
  y[i] = y_type(f32(a[i]) + FACTOR * f32(b[i]));
}
