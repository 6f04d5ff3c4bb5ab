// y = CAP * tanh(x / CAP), element by element.
// needs: tanh (tanh_of)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read_write> y: array<y_type>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= WIDTH) { return; }
  let i = id.y * WIDTH + id.x;
  y[i] = y_type(CAP * tanh_of(f32(x[i]) / CAP));
}
