// provides: keep_logit
// Nothing but the largest number of a group is wanted.
fn keep_logit(token: u32, row: u32, value: f32) { }
