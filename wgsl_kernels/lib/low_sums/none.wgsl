// provides: low_ahead, add_low, low_sum
// No adapter adds to the sums of a workgroup.
alias LowAhead = u32;
fn low_ahead(token: u32, first: u32, thread: u32) -> LowAhead { return 0u; }
fn add_low(ahead: LowAhead, token: u32, first: u32, thread: u32) {}
fn low_sum(slot: u32) -> f32 { return 0.0; }
