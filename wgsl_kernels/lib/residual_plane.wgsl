@group(0) @binding(5) var<storage, read> residual: array<f32>;
fn residual_at(index: u32) -> f32 { return residual[index]; }
