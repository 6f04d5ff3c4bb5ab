// y[t, r] = residual + sum_j x[t, j * WIDTH + r]: what a token's CHOSEN experts gave, added up.
// needs: residual (with_residual)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= WIDTH) { return; }
  var sum = 0.0;
  for (var j = 0u; j < CHOSEN; j++) { sum += f32(x[(id.y * CHOSEN + j) * WIDTH + id.x]); }
  let at = id.y * WIDTH + id.x;
  y[at] = y_type(with_residual(sum, at));
}
