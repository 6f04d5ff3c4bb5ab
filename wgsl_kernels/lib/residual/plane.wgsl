// provides: with_residual, residual_at, added_to
// A product is added to a residual stream: to what is loaded before, or when the product is known.
@group(0) @binding(5) var<storage, read> residual: array<f32>;
fn residual_at(index: u32) -> f32 { return residual[index]; }
fn added_to(before: f32, v: f32) -> f32 { return FACTOR * v + before; }
fn with_residual(v: f32, index: u32) -> f32 { return added_to(residual_at(index), v); }
