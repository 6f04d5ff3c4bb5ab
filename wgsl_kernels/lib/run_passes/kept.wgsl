// provides: run_passes
// needs: team_sums (first_pieces, sums_from, TEAM), stage (stage), round_sums (keep_sums, made_sum), row_factor (row_factor),
//   keep_logit (keep_logit), caller (AT_ONCE, ROUNDS, best, found)
// A workgroup computes AT_ONCE rows of its group at a time, as ahead.wgsl, but looks at their sums behind the last pass
// alone: passes have no barriers, and a thread looks at one row, where every thread looked at all of them.
const PASS_SUBGROUPS: u32 = WORKGROUP / SUBGROUP_SIZE;
var<workgroup> pass_bests: array<vec2<f32>, PASS_SUBGROUPS>;  // of a subgroup's rows the largest number, and its place

fn run_passes(token: u32, first: u32, thread: u32) {
  let own = thread / TEAM * ROWS_PER_TEAM;
  var next = first_pieces(first + own, thread);
  stage(token, thread);
  for (var run = 0u; run < ROUNDS; run++) {
    let at = run * AT_ONCE;
    let sums = sums_from(next, token, first + at + own, thread);
    if (at + AT_ONCE < GROUP) { next = first_pieces(first + at + AT_ONCE + own, thread); }
    keep_sums(run, sums, thread);
  }
  workgroupBarrier();
  let factor = row_factor(0u);
  var row = 0u;
  for (var turn = 0u; turn < (GROUP + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= GROUP || first + i >= ROWS) { break; }
    let v = made_sum(i) * factor;
    keep_logit(token, first + i, v);
    if (v > best) { best = v; row = i; }
  }
  let most = subgroupMax(best);
  // places are below 2^24, exact in f32; of equals the first counts
  let place = subgroupMin(select(f32(GROUP), f32(row), best == most));
  if (thread % SUBGROUP_SIZE == 0u) { pass_bests[thread / SUBGROUP_SIZE] = vec2<f32>(most, place); }
  workgroupBarrier();
  var first_best = pass_bests[0];
  for (var s = 1u; s < PASS_SUBGROUPS; s++) {
    let other = pass_bests[s];
    if (other.x > first_best.x || (other.x == first_best.x && other.y < first_best.y)) { first_best = other; }
  }
  best = first_best.x;
  found = first + u32(first_best.y);
}
