// Norms of each query (part 2) and key (0) by itself; values (1) have none.
@group(0) @binding(6) var<storage, read> q_norm: array<f32>;
@group(0) @binding(7) var<storage, read> k_norm: array<f32>;
fn norm_factor(start: u32, part: u32, thread: u32) -> f32 {
  return select(head_factor(start, thread), 1.0, part == 1u);
}
fn norm_at(part: u32, d: u32) -> f32 {
  if (part == 1u) { return 1.0; }
  if (part == 0u) { return k_norm[d]; }
  return q_norm[d];
}
