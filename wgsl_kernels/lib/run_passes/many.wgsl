// provides: run_passes
// needs: caller (AT_ONCE, compute_pass)
// A workgroup computes AT_ONCE rows of its group at a time.
fn run_passes(token: u32, first: u32, thread: u32) {
  for (var round = 0u; round < GROUP / AT_ONCE; round++) {
    compute_pass(token, first + round * AT_ONCE, thread);
    workgroupBarrier();  // the next pass's sums are written where this one's were read
  }
}
