// provides: scales_ahead, stage_scales, scale_of
// needs: product_a8 (PIECE), block_scale (BlockScale, block_scale_at, scale_zero_of),
//   caller (CHUNK, TEAM, GROUP_ROWS, weight_row)
// Scales and zero-points of a chunk's blocks through workgroup memory: each is loaded and unpacked once, where the threads
// that share a block would do so for each of its pieces.
const CHUNK_COLUMNS: u32 = CHUNK * PIECE;
const WHOLE_BLOCKS: bool = CHUNK_COLUMNS % BLOCK == 0u;
// blocks that a chunk may have a part of
const CHUNK_BLOCKS: u32 = CHUNK_COLUMNS / BLOCK + select(select(2u, 1u, BLOCK % CHUNK_COLUMNS == 0u), 0u, WHOLE_BLOCKS);
const ROW_BLOCKS: u32 = (COLUMNS + BLOCK - 1u) / BLOCK;
const STAGED_SCALES: u32 = GROUP_ROWS * CHUNK_BLOCKS;
const SCALE_TURNS: u32 = (STAGED_SCALES + WORKGROUP - 1u) / WORKGROUP;  // scales that a thread brings
var<workgroup> staged_scales: array<vec2<f32>, STAGED_SCALES>;         // [row][block], scale and zero-point
alias ScalesAhead = array<BlockScale, SCALE_TURNS>;

fn scales_ahead(group_first: u32, chunk: u32, thread: u32) -> ScalesAhead {
  var ahead: ScalesAhead;
  for (var turn = 0u; turn < SCALE_TURNS; turn++) {
    let own = turn * WORKGROUP + thread;
    if (own < STAGED_SCALES) {
      let block = min(chunk * CHUNK_COLUMNS / BLOCK + own % CHUNK_BLOCKS, ROW_BLOCKS - 1u);
      ahead[turn] = block_scale_at(weight_row(group_first, own / CHUNK_BLOCKS), block);
    }
  }
  return ahead;
}
fn stage_scales(ahead: ScalesAhead, thread: u32) {
  for (var turn = 0u; turn < SCALE_TURNS; turn++) {
    let own = turn * WORKGROUP + thread;
    if (own < STAGED_SCALES) { staged_scales[own] = scale_zero_of(ahead[turn]); }
  }
}
// Of the blocks of a chunk that of a thread's piece. Where turns are whole blocks apart, so that the second term is a constant.
fn staged_block(chunk: u32, turn: u32, lane: u32) -> u32 {
  if (TEAM * PIECE % BLOCK == 0u) { return lane * PIECE / BLOCK + turn * (TEAM * PIECE / BLOCK); }
  if (WHOLE_BLOCKS) { return (turn * TEAM + lane) * PIECE / BLOCK; }
  return (chunk * CHUNK + turn * TEAM + lane) * PIECE / BLOCK - chunk * CHUNK_COLUMNS / BLOCK;
}
// Of row i of the thread's team, in a turn.
fn scale_of(chunk: u32, i: u32, turn: u32, thread: u32) -> vec2<f32> {
  return staged_scales[(thread / TEAM * ROWS_PER_TEAM + i) * CHUNK_BLOCKS + staged_block(chunk, turn, thread % TEAM)];
}
