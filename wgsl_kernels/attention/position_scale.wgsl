// y = x * (1 + SCALE * ln(1 + floor((p + 1) / FLOOR))), p the position of a row. Below FLOOR the factor is 1 exactly: WGSL
// promises ln(1) only to 2^-21.
// needs: state (Rows)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<uniform> state: Rows;
@group(0) @binding(2) var<storage, read_write> y: array<y_type>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= WIDTH) { return; }
  let whole = floor(f32(state[id.y].position + 1u) / FLOOR);
  let factor = select(1.0 + SCALE * log(1.0 + whole), 1.0, whole == 0.0);
  let i = id.y * WIDTH + id.x;
  y[i] = y_type(f32(x[i]) * factor);
}
