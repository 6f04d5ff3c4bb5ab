// provides: norm_factor, norm_at
// needs: head_factor (head_factor), caller (HEADS)
// Norms of each query and key by itself, without a weight; values have none.
fn norm_factor(start: u32, head: u32, thread: u32) -> f32 {
  return select(1.0, head_factor(start, thread), head < HEADS + KV_HEADS);
}
fn norm_at(head: u32, d: u32) -> f32 { return 1.0; }
