// provides: norm_factor, norm_at
// needs: head_factor (head_factor), caller (HEADS)
// Norms of each query and key by itself; values have none.
@group(0) @binding(9) var<storage, read> q_norm: array<f32>;
@group(0) @binding(10) var<storage, read> k_norm: array<f32>;
fn norm_factor(start: u32, head: u32, thread: u32) -> f32 {
  return select(1.0, head_factor(start, thread), head < HEADS + KV_HEADS);
}
fn norm_at(head: u32, d: u32) -> f32 {
  if (head < HEADS) { return q_norm[d]; }
  if (head < HEADS + KV_HEADS) { return k_norm[d]; }
  return 1.0;
}
