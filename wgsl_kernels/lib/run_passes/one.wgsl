// provides: run_passes
// needs: team_sums (team_sums, TEAM), norm_sum (start_sum), stage (stage), caller (compare)
// A workgroup computes all GROUP rows of its group at once.
fn run_passes(token: u32, first: u32, thread: u32) {
  stage(token, thread);
  start_sum();
  compare(token, first, team_sums(token, first + thread / TEAM * ROWS_PER_TEAM, thread), thread);
}
