// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) for few tokens: a team of threads computes ROWS_PER_TEAM rows of
// one token, and TEAMS of them share a workgroup.
//
// Every weight byte is read once, and neighbouring threads read neighbouring pieces of a row; a piece of activations,
// loaded once, serves all rows of the team. The number of steps is a constant, and a step loads all it needs before it
// computes anything: drivers keep this order, and one sum between the loads costs 13% (H200). Starting a workgroup costs a GPU about 0.6 ns however small it is (3584 of
// them 4 us before any has done its work, H200), so small teams share one. The threads' sums meet at the end.
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

const TEAM: u32 = WORKGROUP / TEAMS;
const STEPS: u32 = (PIECES + TEAM - 1u) / TEAM;
const GROUP_ROWS: u32 = TEAMS * ROWS_PER_TEAM;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let group_first = (id.x + id.z * 32768u) * GROUP_ROWS;
  let first = group_first + thread / TEAM * ROWS_PER_TEAM;
  var sums: array<f32, ROWS_PER_TEAM>;
  for (var step = 0u; step < STEPS; step++) {
    let piece = step * TEAM + thread % TEAM;
    if (PIECES % TEAM == 0u || piece < PIECES) {
      let raw = activations_at(token, piece);
      var loaded: array<Piece, ROWS_PER_TEAM>;
      for (var i = 0u; i < ROWS_PER_TEAM; i++) { loaded[i] = piece_at(min(first + i, ROWS - 1u), piece); }
      let v = prepared(raw);
      for (var i = 0u; i < ROWS_PER_TEAM; i++) { sums[i] += piece_sum(loaded[i], v); }
    }
  }
  meet(sums, thread);
  for (var i = thread; i < GROUP_ROWS; i += WORKGROUP) {
    let row = group_first + i;
    if (row < ROWS) {
      let index = token * OUT_ROWS + ROW_OFFSET + row;
      y[index] = y_type(row_total(i) + bias_at(row) + residual_at(index));
    }
  }
}
