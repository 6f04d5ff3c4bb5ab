// provides: run_passes
// needs: caller (compute_pass)
// A workgroup computes all GROUP rows of its group at once.
fn run_passes(token: u32, first: u32, thread: u32) { compute_pass(token, first, thread); }
