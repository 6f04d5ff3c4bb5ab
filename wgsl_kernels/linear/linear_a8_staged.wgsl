// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) with both operands integers, for few tokens: a team of threads
// computes ROWS_PER_TEAM rows of one token, and TEAMS of them share a workgroup.
//
// A product of a few microseconds is over before what waits for something else has begun. So a thread sends all loads of a
// chunk at once, HELD pieces of each of its rows, before it waits for any; what a workgroup needs of activations and
// scales beside that it brings together (lib/row_columns, lib/row_scales). Rows of more than a chunk go on with the loads
// of the next one on their way.
// needs: product_a8 (PIECES, Quants, quants_at, product), row_columns (columns_ahead, stage_columns, columns_of),
//   row_scales (scales_ahead, stage_scales, scale_of), add_up (add_up, sum_of),
//   low_sums (low_ahead, add_low, low_sum), residual (with_residual), bias (bias_at)
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

const TEAM: u32 = WORKGROUP / TEAMS;
const CHUNK: u32 = TEAM * HELD;  // pieces of a row
const CHUNKS: u32 = (PIECES + CHUNK - 1u) / CHUNK;
const SUMS: u32 = ROWS_PER_TEAM;
const GROUP_ROWS: u32 = TEAMS * ROWS_PER_TEAM;
const LOW_SUMS: u32 = GROUP_ROWS;
alias Weights = array<Quants, ROWS_PER_TEAM * HELD>;  // [row][piece]

// Where no workgroup reaches beyond the last row, rows lie constants apart.
fn weight_row(first: u32, i: u32) -> u32 {
  if (ROWS % GROUP_ROWS == 0u && ROWS / GROUP_ROWS <= 32768u) { return first + i; }
  return min(first + i, ROWS - 1u);
}
fn piece_of(chunk: u32, own: u32) -> u32 {
  if (PIECES % CHUNK == 0u) { return chunk * CHUNK + own; }
  return min(chunk * CHUNK + own, PIECES - 1u);
}
fn low_place(token: u32, first: u32, slot: u32) -> vec2<u32> { return vec2<u32>(token, weight_row(first, slot)); }

fn weights_at(first: u32, chunk: u32, lane: u32) -> Weights {
  var loaded: Weights;
  for (var i = 0u; i < ROWS_PER_TEAM; i++) {
    for (var turn = 0u; turn < HELD; turn++) {
      loaded[i * HELD + turn] = quants_at(weight_row(first, i), piece_of(chunk, turn * TEAM + lane));
    }
  }
  return loaded;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let group_first = (id.x + id.z * 32768u) * GROUP_ROWS;
  let first = group_first + thread / TEAM * ROWS_PER_TEAM;
  let lane = thread % TEAM;
  var next_scales = scales_ahead(group_first, 0u, thread);
  var next_columns = columns_ahead(token, 0u, thread);
  var next_weights = weights_at(first, 0u, lane);
  let low = low_ahead(token, group_first, thread);
  var sums: array<f32, SUMS>;
  for (var chunk = 0u; chunk < CHUNKS; chunk++) {
    let columns = next_columns;
    let weights = next_weights;
    stage_columns(columns, thread);
    stage_scales(next_scales, thread);
    workgroupBarrier();
    if (chunk + 1u < CHUNKS) {
      next_scales = scales_ahead(group_first, chunk + 1u, thread);
      next_columns = columns_ahead(token, chunk + 1u, thread);
      next_weights = weights_at(first, chunk + 1u, lane);
    }
    for (var turn = 0u; turn < HELD; turn++) {
      if (PIECES % CHUNK == 0u || chunk * CHUNK + turn * TEAM + lane < PIECES) {
        let c = columns_of(columns, turn, lane);
        for (var i = 0u; i < ROWS_PER_TEAM; i++) {
          sums[i] += product(weights[i * HELD + turn], scale_of(chunk, i, turn, thread), c);
        }
      }
    }
    if (CHUNKS > 1u) { workgroupBarrier(); }
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
      y[index] = y_type(with_residual(sum + bias_at(row), index));
    }
  }
}
