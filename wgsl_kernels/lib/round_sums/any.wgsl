// provides: keep_sums, made_sum
// needs: add_up (add_up, sum_of), caller (ROUNDS, SUMS)
// Sums of all rounds, added up round by round.
var<workgroup> round_sums: array<f32, ROUNDS * TEAMS * ROWS_PER_TEAM>;

fn keep_sums(round: u32, sums: array<f32, SUMS>, thread: u32) {
  add_up(sums, thread);
  for (var turn = 0u; turn < (TEAMS * ROWS_PER_TEAM + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= TEAMS * ROWS_PER_TEAM) { break; }
    round_sums[round * TEAMS * ROWS_PER_TEAM + i] = sum_of(i / ROWS_PER_TEAM, i % ROWS_PER_TEAM);
  }
  workgroupBarrier();  // the next round's sums are added up where this one's were
}
fn made_sum(slot: u32) -> f32 { return round_sums[slot]; }
