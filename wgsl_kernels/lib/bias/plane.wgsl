// provides: bias_at
// A bias for each row.
@group(0) @binding(4) var<storage, read> bias: array<f32>;
fn bias_at(row: u32) -> f32 { return bias[row]; }
