// Sums over teams of whole subgroups, with one barrier. Subgroups are consecutive threads: WGSL does not promise it, but
// it is so on the adapters whose subgroup size counts as known (workbench/runtime/device.py).
const TEAM_SUBGROUPS: u32 = TEAM / SUBGROUP_SIZE;
var<workgroup> sum_scratch: array<f32, TEAMS * SUMS * TEAM_SUBGROUPS>;

fn meet(sums: array<f32, SUMS>, thread: u32) {
  let subgroup = thread / SUBGROUP_SIZE;
  let first = subgroup / TEAM_SUBGROUPS * SUMS;
  for (var i = 0u; i < SUMS; i++) {
    let partial = subgroupAdd(sums[i]);
    if (thread % SUBGROUP_SIZE == 0u) {
      sum_scratch[(first + i) * TEAM_SUBGROUPS + subgroup % TEAM_SUBGROUPS] = partial;
    }
  }
  workgroupBarrier();
}
fn sum_of(team: u32, i: u32) -> f32 {
  var total = 0.0;
  for (var s = 0u; s < TEAM_SUBGROUPS; s++) { total += sum_scratch[(team * SUMS + i) * TEAM_SUBGROUPS + s]; }
  return total;
}
