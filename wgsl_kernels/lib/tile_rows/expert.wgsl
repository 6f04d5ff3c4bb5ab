// provides: weight_row, store_two
// needs: tile_place/experts (above, place_end, order), caller (y, APART)
// A tile's rows are those of one expert; a sum goes where its pair stands in the result.
fn weight_row(i: u32) -> u32 { return min(above + min(i, EXPERT_ROWS - 1u), ROWS - 1u); }
fn store(i: u32, row: u32, sum: f32) {
  if (i < place_end && row < EXPERT_ROWS && above + row < ROWS) {
    let pair = order[i];
    y[pair.x * EXPERT_ROWS + row] = y_type(bitcast<f32>(pair.y) * sum);
  }
}
fn store_two(i: u32, row: u32, sums: vec2<f32>) {
  store(i, row, sums.x);
  store(i, row + APART, sums.y);
}
