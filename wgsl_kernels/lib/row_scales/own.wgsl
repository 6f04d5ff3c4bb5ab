// provides: STAGES_SCALES, scales_ahead, stage_scales, scale_of
// needs: product_a8 (PIECE), block_scale (BlockScale, block_scale_at, scale_zero_of),
//   caller (HELD, TEAM, piece_of, weight_row)
// Each thread loads the scales and zero-points of its pieces for itself.
const STAGES_SCALES: bool = false;
alias ScalesAhead = array<BlockScale, ROWS_PER_TEAM * HELD>;

fn scales_ahead(group_first: u32, chunk: u32, thread: u32) -> ScalesAhead {
  var ahead: ScalesAhead;
  for (var i = 0u; i < ROWS_PER_TEAM; i++) {
    for (var turn = 0u; turn < HELD; turn++) {
      let block = piece_of(chunk, turn * TEAM + thread % TEAM) * PIECE / BLOCK;
      ahead[i * HELD + turn] = block_scale_at(weight_row(group_first, thread / TEAM * ROWS_PER_TEAM + i), block);
    }
  }
  return ahead;
}
fn stage_scales(ahead: ScalesAhead, thread: u32) {}
fn scale_of(ahead: ScalesAhead, chunk: u32, i: u32, turn: u32, thread: u32) -> vec2<f32> {
  return scale_zero_of(ahead[i * HELD + turn]);
}
