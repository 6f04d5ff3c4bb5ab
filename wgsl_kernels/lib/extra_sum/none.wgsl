// provides: EXTRA, extra_sum, start_extra
// Nothing but a product's own sums is added up.
const EXTRA: u32 = 0u;
fn start_extra() {}
fn extra_sum() -> f32 { return 0.0; }
