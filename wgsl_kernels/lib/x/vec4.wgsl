// provides: x4
// Activations read four at a time; COLUMNS is a multiple of 4; what lies beyond a row reads as 0,
// which can happen only where COLUMNS is no whole number of groups of 32: no caller goes beyond those.
@group(0) @binding(0) var<storage, read> x: array<vec4<x_type>>;
fn x4(token: u32, column: u32) -> vec4<f32> {
  if (COLUMNS % 32u != 0u && column >= COLUMNS) { return vec4<f32>(); }
  return vec4<f32>(x[(token * COLUMNS + column) >> 2u]);
}
