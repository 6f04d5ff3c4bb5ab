// provides: hand_on
// The weighed row is nobody else's.
fn hand_on(token: u32, slice: u32, thread: u32) {}
