// provides: row_factor
// A sum stays as it is.
fn row_factor(team: u32) -> f32 { return 1.0; }
