// y[t, r] = sum_k x[t, k] * a[r, k], with the rows of the adapter that the sequence of token t has, 0 where it has none:
// as linear_gemv.wgsl, a team of threads for some rows of one token.
// needs: state (Rows), team_sums (team_sums, TEAM, SUMS), add_up (add_up, sum_of), row_factor (row_factor)
@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(8) var<uniform> state: Rows;

var<private> above: u32;  // rows of the adapters in front of the token's
fn weight_row(first: u32, i: u32) -> u32 { return above + min(first + i, RANKS - 1u); }

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let group_first = id.x * TEAMS * ROWS_PER_TEAM;
  let adapter = state[token].real;
  var sums: array<f32, SUMS>;
  if (adapter > 1u) {
    above = (adapter - 2u) * RANKS;
    sums = team_sums(token, group_first + thread / TEAM * ROWS_PER_TEAM, thread);
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
