// y[t, r] = residual + sum_j score * sum_k x[t, j, k] * w[e * EXPERT_ROWS + r, k], e the j-th expert of token t: the
// products with all CHOSEN experts of a token and their sum. A team goes through its rows of one expert after the other.
// needs: team_sums (team_sums, TEAM, SUMS), add_up (add_up, sum_of), expert_score (expert_score),
//   residual (with_residual)
@group(0) @binding(4) var<storage, read> experts: array<u32>;
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

var<private> above: u32;  // rows above the expert's first
fn weight_row(first: u32, i: u32) -> u32 { return above + min(first + i, EXPERT_ROWS - 1u); }

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let group_first = (id.x + id.z * 32768u) * TEAMS * ROWS_PER_TEAM;
  var sums: array<f32, SUMS>;
  for (var j = 0u; j < CHOSEN; j++) {
    let pair = token * CHOSEN + j;
    above = experts[pair] * EXPERT_ROWS;
    let row = select(token, pair, INPUTS == CHOSEN);
    let product = team_sums(row, group_first + thread / TEAM * ROWS_PER_TEAM, thread);
    for (var i = 0u; i < SUMS; i++) { sums[i] += expert_score(pair) * product[i]; }
  }
  add_up(sums, thread);
  for (var turn = 0u; turn < (TEAMS * ROWS_PER_TEAM + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= TEAMS * ROWS_PER_TEAM) { break; }
    let row = group_first + i;
    if (row < EXPERT_ROWS) {
      let index = token * EXPERT_ROWS + row;
      y[index] = y_type(with_residual(sum_of(i / ROWS_PER_TEAM, i % ROWS_PER_TEAM), index));
    }
  }
}
