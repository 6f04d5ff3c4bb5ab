// provides: weight_at
// Normalised heads have no weight.
fn weight_at(i: u32) -> f32 { return 1.0; }
