// provides: row_factor
// needs: norm_sum (norm_factor)
// A sum over what a norm's weight has weighed is multiplied by the norm's factor.
fn row_factor(team: u32) -> f32 { return norm_factor(team); }
