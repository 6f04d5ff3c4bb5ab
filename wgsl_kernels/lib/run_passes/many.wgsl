// provides: run_passes
// needs: team_sums (team_sums, TEAM), norm_sum (start_sum), stage (stage), caller (AT_ONCE, ROUNDS, compare)
// A workgroup computes AT_ONCE rows of its group at a time.
fn run_passes(token: u32, first: u32, thread: u32) {
  let own = thread / TEAM * ROWS_PER_TEAM;
  stage(token, thread);
  for (var run = 0u; run < ROUNDS; run++) {
    let at = run * AT_ONCE;
    start_sum();
    compare(token, first + at, team_sums(token, first + at + own, thread), thread);
    workgroupBarrier();  // the next pass's sums are written where this one's were read
  }
}
