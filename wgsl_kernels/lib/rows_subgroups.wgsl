// Sums of ROWS_PER_TEAM values over teams of whole subgroups, with one barrier.
const TEAM_SUBGROUPS: u32 = TEAM / SUBGROUP_SIZE;
var<workgroup> row_scratch: array<f32, GROUP_ROWS * TEAM_SUBGROUPS>;

fn meet(sums: array<f32, ROWS_PER_TEAM>, thread: u32) {
  let subgroup = thread / SUBGROUP_SIZE;
  let first = subgroup / TEAM_SUBGROUPS * ROWS_PER_TEAM;
  for (var i = 0u; i < ROWS_PER_TEAM; i++) {
    let partial = subgroupAdd(sums[i]);
    if (thread % SUBGROUP_SIZE == 0u) {
      row_scratch[(first + i) * TEAM_SUBGROUPS + subgroup % TEAM_SUBGROUPS] = partial;
    }
  }
  workgroupBarrier();
}
fn row_total(i: u32) -> f32 {
  var total = 0.0;
  for (var s = 0u; s < TEAM_SUBGROUPS; s++) { total += row_scratch[i * TEAM_SUBGROUPS + s]; }
  return total;
}
