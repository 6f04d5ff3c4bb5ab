// provides: expert_score
// What an expert gives is multiplied by its score. A pair is a token and one of its CHOSEN experts.
@group(0) @binding(8) var<storage, read> scores: array<f32>;
fn expert_score(pair: u32) -> f32 { return scores[pair]; }
