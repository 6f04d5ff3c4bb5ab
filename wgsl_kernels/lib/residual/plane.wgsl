// provides: with_residual
// A product is added to a residual stream.
@group(0) @binding(5) var<storage, read> residual: array<f32>;
fn with_residual(v: f32, index: u32) -> f32 { return FACTOR * v + residual[index]; }
