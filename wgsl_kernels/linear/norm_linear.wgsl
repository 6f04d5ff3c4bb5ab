// y[t, r] = sum_k rms_norm(x)[t, k] * w[r, k] for few tokens: the norm inside the product (lib/norm_sum), which
// saves a dispatch and a trip of the activations through memory.
// needs: team_sums (within, first_pieces, sums_from, TEAM), stage (stage), add_up (add_up, sum_of), row_factor (row_factor),
//   low_sums (low_ahead, add_low, low_sum)
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

fn weight_row(first: u32, i: u32) -> u32 { return within(first + i, ROWS, TEAMS * ROWS_PER_TEAM); }
const LOW_SUMS: u32 = TEAMS * ROWS_PER_TEAM;
fn low_place(token: u32, first: u32, slot: u32) -> vec2<u32> { return vec2<u32>(token, weight_row(first, slot)); }

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let group_first = (id.x + id.z * 32768u) * TEAMS * ROWS_PER_TEAM;
  let first = group_first + thread / TEAM * ROWS_PER_TEAM;
  let ahead = first_pieces(first, thread);  // on their way while the row is made
  stage(token, thread);
  let sums = sums_from(ahead, token, first, thread);
  add_low(low_ahead(token, group_first, thread), token, group_first, thread);
  add_up(sums, thread);
  let factor = row_factor(0u);
  for (var turn = 0u; turn < (TEAMS * ROWS_PER_TEAM + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= TEAMS * ROWS_PER_TEAM) { break; }
    let row = group_first + i;
    let team = i / ROWS_PER_TEAM;
    if (row < ROWS) {
      let sum = sum_of(team, i % ROWS_PER_TEAM) + low_sum(i);
      y[token * OUT_ROWS + ROW_OFFSET + row] = y_type(sum * factor);
    }
  }
}
