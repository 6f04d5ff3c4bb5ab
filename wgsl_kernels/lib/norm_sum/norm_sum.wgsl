// provides: norm, squares, start_sum, norm_factor
// needs: add_up (sum_of)
// RMS normalisation inside a product: W (norm * x / r) = (W (norm * x)) / r, so that r = sqrt(mean x^2 + eps) is needed
// only at the end, where the squares that every thread has read are one more sum. COLUMNS is a multiple of 4.
@group(0) @binding(7) var<storage, read> norm: array<vec4<f32>>;
var<private> squares: f32;
fn start_sum() { squares = 0.0; }
fn norm_factor(team: u32) -> f32 { return 1.0 / sqrt(sum_of(team, ROWS_PER_TEAM) / f32(COLUMNS) + EPS); }
