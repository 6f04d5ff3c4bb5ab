// provides: bias_at
// Nothing is added to a row's sum.
fn bias_at(row: u32) -> f32 { return 0.0; }
