// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) for few tokens: a team of threads computes ROWS_PER_TEAM rows
// of one token (lib/team_sums), and TEAMS of them share a workgroup.
//
// Every weight byte is read once. Starting a workgroup costs a GPU about 0.6 ns however small it is (3584 of them 4 us
// before any has done its work, H200), so small teams share one.
// needs: team_sums (within, team_sums, TEAM), add_up (add_up, sum_of), residual (with_residual), bias (bias_at),
//   low_sums (low_ahead, add_low, low_sum), beside (BESIDE, compute_beside)
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

fn weight_row(first: u32, i: u32) -> u32 { return within(first + i, ROWS, TEAMS * ROWS_PER_TEAM); }
const LOW_SUMS: u32 = TEAMS * ROWS_PER_TEAM;
fn low_place(token: u32, first: u32, slot: u32) -> vec2<u32> { return vec2<u32>(token, weight_row(first, slot)); }

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let group = id.x + id.z * 32768u;
  if (group < BESIDE) {
    compute_beside(group, token, thread);
    return;
  }
  let group_first = (group - BESIDE) * TEAMS * ROWS_PER_TEAM;
  let low = low_ahead(token, group_first, thread);
  let sums = team_sums(token, group_first + thread / TEAM * ROWS_PER_TEAM, thread);
  add_low(low, token, group_first, thread);
  add_up(sums, thread);
  for (var turn = 0u; turn < (TEAMS * ROWS_PER_TEAM + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= TEAMS * ROWS_PER_TEAM) { break; }
    let row = group_first + i;
    if (row < ROWS) {
      let index = token * OUT_ROWS + ROW_OFFSET + row;
      let sum = sum_of(i / ROWS_PER_TEAM, i % ROWS_PER_TEAM) + low_sum(i);
      y[index] = y_type(with_residual(sum + bias_at(row), index));
    }
  }
}
