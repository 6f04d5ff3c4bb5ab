// Sums of ROWS_PER_TEAM values over teams of whole subgroups, with one barrier. Thread t gets those of the workgroup's
// rows t, t + WORKGROUP, ...
const TEAM_SUBGROUPS: u32 = TEAM / SUBGROUP_SIZE;
var<workgroup> row_scratch: array<f32, GROUP_ROWS * TEAM_SUBGROUPS>;

fn keep(i: u32, sum: f32, thread: u32) {
  let subgroup = thread / SUBGROUP_SIZE;
  let partial = subgroupAdd(sum);
  if (thread % SUBGROUP_SIZE == 0u) {
    let row = subgroup / TEAM_SUBGROUPS * ROWS_PER_TEAM + i;
    row_scratch[row * TEAM_SUBGROUPS + subgroup % TEAM_SUBGROUPS] = partial;
  }
}

fn row_totals(sums: array<f32, ROWS_PER_TEAM>, thread: u32) -> array<f32, MINE> {
  const LAST: u32 = ROWS_PER_TEAM - 1u;
  // Written out: a driver that does not unroll a loop here would put the sums into memory (5% of a GEMV on an H200).
  keep(0u, sums[0], thread);
  if (ROWS_PER_TEAM > 1u) { keep(1u, sums[min(1u, LAST)], thread); }
  if (ROWS_PER_TEAM > 2u) {
    keep(2u, sums[min(2u, LAST)], thread);
    keep(3u, sums[min(3u, LAST)], thread);
  }
  if (ROWS_PER_TEAM > 4u) {
    keep(4u, sums[min(4u, LAST)], thread);
    keep(5u, sums[min(5u, LAST)], thread);
    keep(6u, sums[min(6u, LAST)], thread);
    keep(7u, sums[min(7u, LAST)], thread);
  }
  for (var i = 8u; i < ROWS_PER_TEAM; i++) { keep(i, sums[i], thread); }
  workgroupBarrier();
  var mine: array<f32, MINE>;
  for (var j = 0u; j < MINE; j++) {
    let i = j * WORKGROUP + thread;
    if (i < GROUP_ROWS) {
      var total = 0.0;
      for (var s = 0u; s < TEAM_SUBGROUPS; s++) { total += row_scratch[i * TEAM_SUBGROUPS + s]; }
      mine[j] = total;
    }
  }
  return mine;
}
