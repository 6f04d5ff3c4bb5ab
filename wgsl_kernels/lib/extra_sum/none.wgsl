// provides: EXTRA, extra_sum
// Nothing but a product's own sums is added up.
const EXTRA: u32 = 0u;
fn extra_sum() -> f32 { return 0.0; }
