// provides: BESIDE, compute_beside
// A product has its dispatch for itself.
const BESIDE: u32 = 0u;
fn compute_beside(group: u32, token: u32, thread: u32) {}
