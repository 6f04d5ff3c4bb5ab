// provides: EXTRA, extra_sum, start_extra
// needs: norm_sum (squares, start_sum)
// One more sum than a product's own: that of the squares that its thread has read.
const EXTRA: u32 = 1u;
fn start_extra() { start_sum(); }
fn extra_sum() -> f32 { return squares; }
