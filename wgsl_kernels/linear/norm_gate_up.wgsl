// y[t, u] = activate(g) * v, with g = sum_k rms_norm(x)[t, k] * w[u, k] and v the same of row WIDTH + u: norm, gate, up and
// their product in one dispatch for few tokens. A team computes the gate and up rows of ROWS_PER_TEAM / 2 units.
// needs: team_sums (within, team_sums, TEAM), stage (stage), add_up (add_up, sum_of), norm_sum (norm_factor),
//   activate (activate), low_sums (low_ahead, add_low, low_sum)
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

const UNITS: u32 = ROWS_PER_TEAM / 2u;
fn weight_row(first: u32, i: u32) -> u32 { return within(first + i / 2u, WIDTH, TEAMS * UNITS) + (i & 1u) * WIDTH; }
const LOW_SUMS: u32 = TEAMS * ROWS_PER_TEAM;
fn low_place(token: u32, first: u32, slot: u32) -> vec2<u32> { return vec2<u32>(token, weight_row(first, slot)); }

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let group_first = (id.x + id.z * 32768u) * TEAMS * UNITS;
  stage(token, thread);
  let sums = team_sums(token, group_first + thread / TEAM * UNITS, thread);
  add_low(low_ahead(token, group_first, thread), token, group_first, thread);
  add_up(sums, thread);
  for (var turn = 0u; turn < (TEAMS * UNITS + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= TEAMS * UNITS) { break; }
    let unit = group_first + i;
    let team = i / UNITS;
    if (unit < WIDTH) {
      let factor = norm_factor(team);
      let gate = (sum_of(team, i % UNITS * 2u) + low_sum(i * 2u)) * factor;
      let up = (sum_of(team, i % UNITS * 2u + 1u) + low_sum(i * 2u + 1u)) * factor;
      y[token * WIDTH + unit] = y_type(activate(gate) * up);
    }
  }
}
