// Sums of ROWS_PER_TEAM values over teams of whole subgroups, with one barrier. Thread t gets those of the workgroup's
// rows t, t + WORKGROUP, ...
const TEAM_SUBGROUPS: u32 = TEAM / SUBGROUP_SIZE;
var<workgroup> row_scratch: array<f32, GROUP_ROWS * TEAM_SUBGROUPS>;

fn row_totals(sums: array<f32, ROWS_PER_TEAM>, thread: u32) -> array<f32, MINE> {
  let subgroup = thread / SUBGROUP_SIZE;
  let first = subgroup / TEAM_SUBGROUPS * ROWS_PER_TEAM;
  for (var i = 0u; i < ROWS_PER_TEAM; i++) {
    let partial = subgroupAdd(sums[i]);
    if (thread % SUBGROUP_SIZE == 0u) {
      row_scratch[(first + i) * TEAM_SUBGROUPS + subgroup % TEAM_SUBGROUPS] = partial;
    }
  }
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
