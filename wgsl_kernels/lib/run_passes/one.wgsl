// provides: take_turns
// needs: caller (take)
// A workgroup computes all GROUP rows of its group at once.
fn take_turns(token: u32, first: u32, thread: u32) { take(token, first, thread); }
