// y[t, j, u] = silu(g) * v, with g = score * sum_k x[t, k] * w[e * EXPERT_ROWS + u, k] and v the same of the lower half of
// the weight, e the j-th expert of token t: gate, up and their product in one dispatch. A team computes the gate and up
// rows of ROWS_PER_TEAM / 2 units.
// needs: team_sums (team_sums, TEAM), add_up (add_up, sum_of), expert_score (expert_score), activate (activate)
@group(0) @binding(4) var<storage, read> experts: array<u32>;
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

const UNITS: u32 = ROWS_PER_TEAM / 2u;
var<private> above: u32;  // rows of gate above the expert's first
fn weight_row(first: u32, i: u32) -> u32 { return above + min(first + i / 2u, EXPERT_ROWS - 1u) + (i & 1u) * (ROWS / 2u); }

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let pair = id.y;
  let group_first = (id.x + id.z * 32768u) * TEAMS * UNITS;
  above = experts[pair] * EXPERT_ROWS;
  let row = select(pair / CHOSEN, pair, INPUTS == CHOSEN);
  add_up(team_sums(row, group_first + thread / TEAM * UNITS, thread), thread);
  for (var turn = 0u; turn < (TEAMS * UNITS + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= TEAMS * UNITS) { break; }
    let unit = group_first + i;
    let team = i / UNITS;
    if (unit < EXPERT_ROWS) {
      let score = expert_score(pair);
      let gate = score * sum_of(team, i % UNITS * 2u);
      let up = score * sum_of(team, i % UNITS * 2u + 1u);
      y[pair * EXPERT_ROWS + unit] = y_type(activate(gate) * up);
    }
  }
}
