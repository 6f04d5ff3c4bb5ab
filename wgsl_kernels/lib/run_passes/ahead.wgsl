// provides: run_passes
// needs: team_sums (first_pieces, sums_from, TEAM), norm_sum (start_sum), stage (stage), caller (AT_ONCE, ROUNDS, compare)
// A workgroup computes AT_ONCE rows of its group at a time. Weights of a pass are on their way while the row is made, and
// while sums of the pass before are added up.
fn run_passes(token: u32, first: u32, thread: u32) {
  let own = thread / TEAM * ROWS_PER_TEAM;
  var next = first_pieces(first + own, thread);
  stage(token, thread);
  for (var run = 0u; run < ROUNDS; run++) {
    let at = run * AT_ONCE;
    start_sum();
    let sums = sums_from(next, token, first + at + own, thread);
    if (at + AT_ONCE < GROUP) { next = first_pieces(first + at + AT_ONCE + own, thread); }
    compare(token, first + at, sums, thread);
    workgroupBarrier();  // the next pass's sums are written where this one's were read
  }
}
