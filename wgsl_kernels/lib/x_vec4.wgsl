// Activations read four at a time; COLUMNS is a multiple of 4, and what lies beyond a row reads as 0.
@group(0) @binding(0) var<storage, read> x: array<vec4<x_type>>;
fn x4(token: u32, column: u32) -> vec4<f32> {
  if (column >= COLUMNS) { return vec4<f32>(); }
  return vec4<f32>(x[(token * COLUMNS + column) >> 2u]);
}
