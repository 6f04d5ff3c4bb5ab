// provides: EXTRA, extra_sum
// needs: norm_sum (squares)
// One more sum than a product's own: that of the squares that its thread has read.
const EXTRA: u32 = 1u;
fn extra_sum() -> f32 { return squares; }
