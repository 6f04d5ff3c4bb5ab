// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) with both operands integers, for few tokens: a team of threads
// computes ROWS_PER_TEAM rows of one token, and TEAMS of them share a workgroup.
// needs: product_a8 (PIECE, PIECES, X_VECTORS, Quants, Activations, Columns, activations_at, prepared, quants_at, product),
//   block_scale (BlockScale, block_scale_at, scale_zero_of), add_up (add_up, sum_of),
//   low_sums (low_ahead, add_low, low_sum), residual (residual_at, added_to), bias (bias_at)
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

const TEAM: u32 = WORKGROUP / TEAMS;
const CHUNK: u32 = TEAM * HELD;
const CHUNKS: u32 = (PIECES + CHUNK - 1u) / CHUNK;
const SUMS: u32 = ROWS_PER_TEAM;
const GROUP_ROWS: u32 = TEAMS * ROWS_PER_TEAM;
const LOW_SUMS: u32 = GROUP_ROWS;
const ALIGNED: bool = CHUNK * PIECE % BLOCK == 0u;
const SPILL: u32 = select(select(2u, 1u, BLOCK % (CHUNK * PIECE) == 0u), 0u, ALIGNED);
const CHUNK_BLOCKS: u32 = CHUNK * PIECE / BLOCK + SPILL;
const ROW_BLOCKS: u32 = (COLUMNS + BLOCK - 1u) / BLOCK;
const SCALES: u32 = select(1u, GROUP_ROWS * CHUNK_BLOCKS, SCALES_STAGED == 1u);
const SCALE_TURNS: u32 = (SCALES + WORKGROUP - 1u) / WORKGROUP;
const STAGED: u32 = select(1u, CHUNK, X_STAGED == 1u);
const X_TURNS: u32 = (STAGED + WORKGROUP - 1u) / WORKGROUP;
const EXACT: bool = ROWS % GROUP_ROWS == 0u && ROWS / GROUP_ROWS <= 32768u;
var<workgroup> x_stage: array<vec4<u32>, STAGED * X_VECTORS>;
var<workgroup> fact_stage: array<vec4<f32>, STAGED>;
var<workgroup> scale_stage: array<vec2<f32>, SCALES>;

alias Weights = array<Quants, ROWS_PER_TEAM * HELD>;
alias OwnScales = array<BlockScale, ROWS_PER_TEAM * HELD>;
alias OwnX = array<Activations, HELD>;
alias Brought = array<Activations, X_TURNS>;
alias BroughtScales = array<BlockScale, SCALE_TURNS>;

fn weight_row(row: u32) -> u32 {
  if (EXACT) { return row; }
  return min(row, ROWS - 1u);
}
fn piece_of(piece: u32) -> u32 {
  if (PIECES % CHUNK == 0u) { return piece; }
  return min(piece, PIECES - 1u);
}
fn low_place(token: u32, first: u32, slot: u32) -> vec2<u32> { return vec2<u32>(token, weight_row(first + slot)); }

fn weights_at(first: u32, chunk: u32, lane: u32) -> Weights {
  var loaded: Weights;
  for (var i = 0u; i < ROWS_PER_TEAM; i++) {
    for (var h = 0u; h < HELD; h++) {
      loaded[i * HELD + h] = quants_at(weight_row(first + i), piece_of(chunk * CHUNK + h * TEAM + lane));
    }
  }
  return loaded;
}
fn own_scales_at(first: u32, chunk: u32, lane: u32) -> OwnScales {
  var loaded: OwnScales;
  if (SCALES_STAGED == 0u) {
    for (var i = 0u; i < ROWS_PER_TEAM; i++) {
      for (var h = 0u; h < HELD; h++) {
        let piece = piece_of(chunk * CHUNK + h * TEAM + lane);
        loaded[i * HELD + h] = block_scale_at(weight_row(first + i), piece * PIECE / BLOCK);
      }
    }
  }
  return loaded;
}
fn own_x_at(token: u32, chunk: u32, lane: u32) -> OwnX {
  var loaded: OwnX;
  if (X_STAGED == 0u) {
    for (var h = 0u; h < HELD; h++) { loaded[h] = activations_at(token, piece_of(chunk * CHUNK + h * TEAM + lane)); }
  }
  return loaded;
}
fn brought(token: u32, chunk: u32, thread: u32) -> Brought {
  var loaded: Brought;
  if (X_STAGED == 1u) {
    for (var i = 0u; i < X_TURNS; i++) {
      let at = i * WORKGROUP + thread;
      if (at < STAGED) { loaded[i] = activations_at(token, piece_of(chunk * CHUNK + at)); }
    }
  }
  return loaded;
}
fn brought_scales(first: u32, chunk: u32, thread: u32) -> BroughtScales {
  var loaded: BroughtScales;
  if (SCALES_STAGED == 1u) {
    for (var i = 0u; i < SCALE_TURNS; i++) {
      let at = i * WORKGROUP + thread;
      if (at < SCALES) {
        let block = min(chunk * CHUNK * PIECE / BLOCK + at % CHUNK_BLOCKS, ROW_BLOCKS - 1u);
        loaded[i] = block_scale_at(weight_row(first + at / CHUNK_BLOCKS), block);
      }
    }
  }
  return loaded;
}
fn stage_x(loaded: Brought, chunk: u32, thread: u32) {
  for (var i = 0u; i < X_TURNS; i++) {
    let at = i * WORKGROUP + thread;
    if (at < STAGED) {
      let c = prepared(loaded[i], piece_of(chunk * CHUNK + at));
      for (var k = 0u; k < X_VECTORS; k++) { x_stage[k * STAGED + at] = c.v[k]; }
      fact_stage[at] = c.facts;
    }
  }
}
fn stage_scales(loaded: BroughtScales, thread: u32) {
  for (var i = 0u; i < SCALE_TURNS; i++) {
    let at = i * WORKGROUP + thread;
    if (at < SCALES) { scale_stage[at] = scale_zero_of(loaded[i]); }
  }
}
fn columns_of(own: u32, own_x: Activations, piece: u32) -> Columns {
  if (X_STAGED == 0u) { return prepared(own_x, piece); }
  var c: Columns;
  for (var k = 0u; k < X_VECTORS; k++) { c.v[k] = x_stage[k * STAGED + own]; }
  c.facts = fact_stage[own];
  return c;
}
// Of the blocks of a chunk, that of a thread's piece.
fn block_of(chunk: u32, h: u32, lane: u32) -> u32 {
  if (TEAM * PIECE % BLOCK == 0u) { return lane * PIECE / BLOCK + h * (TEAM * PIECE / BLOCK); }
  if (ALIGNED) { return (h * TEAM + lane) * PIECE / BLOCK; }
  return (chunk * CHUNK + h * TEAM + lane) * PIECE / BLOCK - chunk * CHUNK * PIECE / BLOCK;
}

// What is added to row `slot` of the workgroup: of the residual, and of the bias.
fn added_at(token: u32, row: u32, slot: u32) -> vec2<f32> {
  if (slot >= GROUP_ROWS || row >= ROWS) { return vec2<f32>(); }
  return vec2<f32>(residual_at(token * OUT_ROWS + ROW_OFFSET + row), bias_at(row));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let group_first = (id.x + id.z * 32768u) * GROUP_ROWS;
  let first = group_first + thread / TEAM * ROWS_PER_TEAM;
  let lane = thread % TEAM;
  var x_ahead: Brought;
  var scales_ahead: BroughtScales;
  var weights: Weights;
  if (WEIGHTS_FIRST == 1u) { weights = weights_at(first, 0u, lane); }
  scales_ahead = brought_scales(group_first, 0u, thread);
  x_ahead = brought(token, 0u, thread);
  var own_x = own_x_at(token, 0u, lane);
  var own_scales = own_scales_at(first, 0u, lane);
  if (WEIGHTS_FIRST == 0u) { weights = weights_at(first, 0u, lane); }
  let before = added_at(token, group_first + thread, thread);
  let low = low_ahead(token, group_first, thread);
  var sums: array<f32, SUMS>;
  for (var chunk = 0u; chunk < CHUNKS; chunk++) {
    if (X_STAGED == 1u) { stage_x(x_ahead, chunk, thread); }
    if (SCALES_STAGED == 1u) { stage_scales(scales_ahead, thread); }
    if (X_STAGED == 1u || SCALES_STAGED == 1u) { workgroupBarrier(); }
    let loaded = weights;
    let loaded_scales = own_scales;
    let loaded_x = own_x;
    if (chunk + 1u < CHUNKS) {
      scales_ahead = brought_scales(group_first, chunk + 1u, thread);
      x_ahead = brought(token, chunk + 1u, thread);
      own_x = own_x_at(token, chunk + 1u, lane);
      own_scales = own_scales_at(first, chunk + 1u, lane);
      weights = weights_at(first, chunk + 1u, lane);
    }
    for (var h = 0u; h < HELD; h++) {
      let own = h * TEAM + lane;
      let piece = chunk * CHUNK + own;
      if (PIECES % CHUNK == 0u || piece < PIECES) {
        let c = columns_of(own, loaded_x[h], piece);
        for (var i = 0u; i < ROWS_PER_TEAM; i++) {
          var sz: vec2<f32>;
          if (SCALES_STAGED == 1u) {
            sz = scale_stage[(thread / TEAM * ROWS_PER_TEAM + i) * CHUNK_BLOCKS + block_of(chunk, h, lane)];
          } else {
            sz = scale_zero_of(loaded_scales[i * HELD + h]);
          }
          sums[i] += product(loaded[i * HELD + h], sz, c);
        }
      }
    }
    if (CHUNKS > 1u && (X_STAGED == 1u || SCALES_STAGED == 1u)) { workgroupBarrier(); }
  }
  add_low(low, token, group_first, thread);
  add_up(sums, thread);
  for (var turn = 0u; turn < (GROUP_ROWS + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= GROUP_ROWS) { break; }
    let row = group_first + i;
    if (row < ROWS) {
      let index = token * OUT_ROWS + ROW_OFFSET + row;
      let sum = sum_of(i / ROWS_PER_TEAM, i % ROWS_PER_TEAM) + low_sum(i);
      var added = before;
      if (turn > 0u) { added = added_at(token, row, i); }
      y[index] = y_type(added_to(added.x, sum + added.y));
    }
  }
}
