// provides: x4
// Activations that `quantize_activations` wrote, as the floats that they stand for, four at a time: of each 4 * STRIDE
// columns word j holds columns j, j + STRIDE and so on. What lies beyond a row is 0 there.
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(7) var<storage, read> x_scales: array<f32>;
fn x1(token: u32, column: u32) -> f32 {
  let at = column % (4u * STRIDE);
  let word = x[token * X_GROUPS * 8u + column / (4u * STRIDE) * STRIDE + at % STRIDE];
  return f32(bitcast<i32>(word << (24u - at / STRIDE * 8u)) >> 24u);
}
fn x4(token: u32, column: u32) -> vec4<f32> {
  if (column >= X_GROUPS * 32u) { return vec4<f32>(); }
  let v = vec4<f32>(x1(token, column), x1(token, column + 1u), x1(token, column + 2u), x1(token, column + 3u));
  return v * x_scales[token * X_GROUPS + column / 32u];
}
