// Some rows of x, in the order of `rows`.
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<y_type>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= WIDTH) { return; }
  let row = min(rows[id.y], TOKENS - 1u);
  y[id.y * WIDTH + id.x] = y_type(x[row * WIDTH + id.x]);
}
