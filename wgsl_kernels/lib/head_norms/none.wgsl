// provides: norm_factor, norm_at
// Queries and keys without norms of their own.
fn norm_factor(start: u32, head: u32, thread: u32) -> f32 { return 1.0; }
fn norm_at(head: u32, d: u32) -> f32 { return 1.0; }
