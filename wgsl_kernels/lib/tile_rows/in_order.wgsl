// provides: weight_row, store_two
// needs: low_rank (low_rank), residual (with_residual), bias (bias_at), caller (y, APART)
// A tile's rows are those of the weight, in their order; sums are stored with bias, residual and what an adapter
// adds.
fn weight_row(i: u32) -> u32 { return min(i, ROWS - 1u); }
fn store(token: u32, row: u32, sum: f32) {
  if (token < TOKENS && row < ROWS) {
    let index = token * OUT_ROWS + ROW_OFFSET + row;
    y[index] = y_type(with_residual(sum + bias_at(row) + low_rank(token, row), index));
  }
}
fn store_two(token: u32, i: u32, sums: vec2<f32>) {
  store(token, i, sums.x);
  store(token, i + APART, sums.y);
}
