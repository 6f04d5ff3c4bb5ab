// The columns of each row of x, in another order.
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read> order: array<order_type>;
@group(0) @binding(2) var<storage, read_write> y: array<y_type>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= WIDTH) { return; }
  let column = min(u32(order[id.x]), WIDTH - 1u);
  y[id.y * WIDTH + id.x] = y_type(x[id.y * WIDTH + column]);
}
