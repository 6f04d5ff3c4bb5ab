// provides: bias_at
// Biases of queries, keys and values, in three arrays.
@group(0) @binding(9) var<storage, read> q_bias: array<f32>;
@group(0) @binding(10) var<storage, read> k_bias: array<f32>;
@group(0) @binding(11) var<storage, read> v_bias: array<f32>;
fn bias_at(row: u32) -> f32 {
  if (row < WIDTH) { return q_bias[row]; }
  let at = row - WIDTH;
  if (at < KV_HEADS * HEAD_DIM) { return k_bias[at]; }
  return v_bias[at - KV_HEADS * HEAD_DIM];
}
