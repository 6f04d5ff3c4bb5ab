// provides: x1, x4
// Activations read one at a time, for any COLUMNS; what lies beyond a row reads as 0.
@group(0) @binding(0) var<storage, read> x: array<x_type>;
fn x1(token: u32, column: u32) -> f32 {
  if (column >= COLUMNS) { return 0.0; }
  return f32(x[token * COLUMNS + column]);
}
fn x4(token: u32, column: u32) -> vec4<f32> {
  return vec4<f32>(x1(token, column), x1(token, column + 1u), x1(token, column + 2u), x1(token, column + 3u));
}
