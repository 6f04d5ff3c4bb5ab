// y[t, j, r] = score * sum_k x[t, k] * w[e * EXPERT_ROWS + r, k], e the j-th of the experts that token t goes to: as
// linear_gemv.wgsl, a team of threads for some rows of one token and one of its experts. Only that expert's rows are read.
// needs: team_sums (team_sums, TEAM, SUMS), add_up (add_up, sum_of), expert_score (expert_score)
@group(0) @binding(4) var<storage, read> experts: array<u32>;
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

var<private> above: u32;  // rows of this binding above the expert's first; below 0 it wraps
fn weight_row(first: u32, i: u32) -> u32 { return min(above + min(first + i, EXPERT_ROWS - 1u), ROWS - 1u); }

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let pair = id.y;
  let group_first = (id.x + id.z * 32768u) * TEAMS * ROWS_PER_TEAM;
  let begin = experts[pair] * EXPERT_ROWS;
  above = begin - ROW_OFFSET;
  var sums: array<f32, SUMS>;
  if (begin < ROW_OFFSET + ROWS && begin + EXPERT_ROWS > ROW_OFFSET) {  // else another binding has the expert
    let row = select(pair / CHOSEN, pair, INPUTS == CHOSEN);
    sums = team_sums(row, group_first + thread / TEAM * ROWS_PER_TEAM, thread);
  }
  add_up(sums, thread);
  for (var turn = 0u; turn < (TEAMS * ROWS_PER_TEAM + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= TEAMS * ROWS_PER_TEAM) { break; }
    let row = group_first + i;
    if (row < EXPERT_ROWS && above + row < ROWS) {
      y[pair * EXPERT_ROWS + row] = y_type(expert_score(pair) * sum_of(i / ROWS_PER_TEAM, i % ROWS_PER_TEAM));
    }
  }
}
