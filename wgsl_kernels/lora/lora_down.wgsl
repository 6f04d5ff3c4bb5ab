// y[t, r] = sum_k x[t, k] * a[r, k], with the rows of the adapter that the sequence of token t has, 0 where it has none:
// as linear_gemv.wgsl, a team of threads for some rows of one token. There are too few rows to hide loads behind those of
// other workgroups, so a thread loads several pieces of its row before it computes with the first.
// needs: state (Rows), pieces (PIECES, Piece, Activations, piece_at, activations_at, prepared, piece_sum),
//   extra_sum (EXTRA, extra_sum), add_up (add_up, sum_of), row_factor (row_factor)
@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(8) var<uniform> state: Rows;

const TEAM: u32 = WORKGROUP / TEAMS;
const STEPS: u32 = (PIECES + TEAM - 1u) / TEAM;
const SUMS: u32 = ROWS_PER_TEAM + EXTRA;
const AT_ONCE: u32 = select(1u, min(4u, STEPS), ROWS_PER_TEAM == 1u);

fn adapter_sums(token: u32, first_row: u32, above: u32, lane: u32) -> array<f32, SUMS> {
  var sums: array<f32, SUMS>;
  for (var step = 0u; step < STEPS; step += AT_ONCE) {
    var raw = array<Activations, AT_ONCE>();
    var loaded = array<array<Piece, ROWS_PER_TEAM>, AT_ONCE>();
    for (var turn = 0u; turn < AT_ONCE; turn++) {
      let piece = min((step + turn) * TEAM + lane, PIECES - 1u);
      raw[turn] = activations_at(token, piece);
      for (var i = 0u; i < ROWS_PER_TEAM; i++) {
        loaded[turn][i] = piece_at(above + min(first_row + i, RANKS - 1u), piece);
      }
    }
    for (var turn = 0u; turn < AT_ONCE; turn++) {
      let piece = (step + turn) * TEAM + lane;
      if (piece < PIECES) {
        let v = prepared(raw[turn], piece);
        for (var i = 0u; i < ROWS_PER_TEAM; i++) { sums[i] += piece_sum(loaded[turn][i], v); }
      }
    }
  }
  if (EXTRA == 1u) { sums[SUMS - 1u] = extra_sum(); }
  return sums;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let group_first = id.x * TEAMS * ROWS_PER_TEAM;
  let adapter = state[token].real;
  var sums: array<f32, SUMS>;
  if (adapter > 1u) {
    sums = adapter_sums(token, group_first + thread / TEAM * ROWS_PER_TEAM, (adapter - 2u) * RANKS, thread % TEAM);
  }
  add_up(sums, thread);
  for (var turn = 0u; turn < (TEAMS * ROWS_PER_TEAM + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= TEAMS * ROWS_PER_TEAM) { break; }
    let row = group_first + i;
    let team = i / ROWS_PER_TEAM;
    if (row < RANKS) { y[token * RANKS + row] = sum_of(team, i % ROWS_PER_TEAM) * row_factor(team); }
  }
}
