// provides: take_turns
// needs: caller (AT_ONCE, take)
// A workgroup computes AT_ONCE rows of its group at a time.
fn take_turns(token: u32, first: u32, thread: u32) {
  for (var turn = 0u; turn < GROUP / AT_ONCE; turn++) {
    take(token, first + turn * AT_ONCE, thread);
    workgroupBarrier();  // the next turn's sums are written where this one's were read
  }
}
