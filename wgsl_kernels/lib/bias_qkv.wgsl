// Biases of queries, keys and values, in three arrays.
@group(0) @binding(6) var<storage, read> q_bias: array<f32>;
@group(0) @binding(7) var<storage, read> k_bias: array<f32>;
@group(0) @binding(8) var<storage, read> v_bias: array<f32>;
fn bias_at(row: u32) -> f32 {
  if (row < WIDTH) { return q_bias[row]; }
  let at = row - WIDTH;
  if (at < KV_HEADS * HEAD_DIM) { return k_bias[at]; }
  return v_bias[at - KV_HEADS * HEAD_DIM];
}
