// provides: weight_at
// The weight of normalised heads.
@group(0) @binding(1) var<storage, read> weight: array<f32>;
fn weight_at(i: u32) -> f32 { return weight[i]; }
