// provides: weight_row, store_two
// needs: activate (activate), caller (APART, y)
// A tile's rows are alternately those of gate and up, APART of each at a time, so that one thread has both of a unit.
fn unit_of(i: u32) -> u32 { return i / (2u * APART) * APART + i % APART; }
fn weight_row(i: u32) -> u32 { return min(unit_of(i), WIDTH - 1u) + i / APART % 2u * WIDTH; }
fn store_two(token: u32, i: u32, sums: vec2<f32>) {
  let unit = unit_of(i);
  if (token < TOKENS && unit < WIDTH) { y[token * WIDTH + unit] = y_type(activate(sums.x) * sums.y); }
}
