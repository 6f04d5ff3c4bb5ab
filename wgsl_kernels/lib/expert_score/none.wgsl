// provides: expert_score
// What an expert gives counts as it is.
fn expert_score(pair: u32) -> f32 { return 1.0; }
