// provides: SUMS, LOW_SUMS, low_place, store_batch
// needs: add_up (add_up, sum_of), low_sums (low_ahead, add_low, low_sum), residual (with_residual), bias (bias_at)
// What becomes of a batch's sums, ROWS_PER_TEAM rows of BATCH tokens a team: they are added up over each team's threads, and
// written with what adapters, a bias and a residual add.
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

const SUMS: u32 = ROWS_PER_TEAM * BATCH;
const LOW_SUMS: u32 = TEAMS * SUMS;

// Token and row of the workgroup's sum i, which may lie behind the last ones.
fn place(first_token: u32, group_first: u32, i: u32) -> vec2<u32> {
  return vec2<u32>(first_token + i % SUMS / ROWS_PER_TEAM, group_first + i / SUMS * ROWS_PER_TEAM + i % ROWS_PER_TEAM);
}
fn low_place(token: u32, first: u32, slot: u32) -> vec2<u32> {
  return min(place(token, first, slot), vec2<u32>(TOKENS - 1u, ROWS - 1u));
}

fn store_batch(sums: array<f32, SUMS>, first_token: u32, group_first: u32, thread: u32) {
  add_low(low_ahead(first_token, group_first, thread), first_token, group_first, thread);
  add_up(sums, thread);
  for (var turn = 0u; turn < (TEAMS * SUMS + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= TEAMS * SUMS) { break; }
    let at = place(first_token, group_first, i);
    if (at.x < TOKENS && at.y < ROWS) {
      let index = at.x * OUT_ROWS + ROW_OFFSET + at.y;
      y[index] = y_type(with_residual(sum_of(i / SUMS, i % SUMS) + low_sum(i) + bias_at(at.y), index));
    }
  }
}
