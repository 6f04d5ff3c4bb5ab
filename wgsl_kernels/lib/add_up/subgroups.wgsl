// provides: add_up, sum_of, sum_of_four, LANES, TEAM_SUBGROUPS
// needs: caller (TEAM, SUMS)
// Sums over teams of whole subgroups, or of equal parts of one, with one barrier. Subgroups are consecutive threads: WGSL
// does not promise it, but it is so on the adapters whose subgroup size counts as known (workbench/runtime/device.py).
//
// Four sums at a time: lanes hand each other the sums that the other half keeps, so that after two exchanges a lane
// carries one of the four and adds it up alone: 3 + 3 exchanges on 32 lanes where four `subgroupAdd` take 20 (3 to 8% of
// a product, H100).
const LANES: u32 = min(TEAM, SUBGROUP_SIZE);
const TEAM_SUBGROUPS: u32 = TEAM / LANES;
const FOURS: u32 = (SUMS + 3u) / 4u;
const LAST: u32 = SUMS - 1u;
const HALVINGS: u32 = countTrailingZeros(LANES) - 2u;  // of the lanes that share one of four sums
var<workgroup> sum_scratch: array<f32, TEAMS * SUMS * TEAM_SUBGROUPS>;

// Of four sums over LANES lanes, the one that the lane's two highest bits name.
fn sum_of_four(v: vec4<f32>, lane: u32) -> f32 {
  let upper = (lane & (LANES / 2u)) != 0u;
  let two = select(v.xy, v.zw, upper) + subgroupShuffleXor(select(v.zw, v.xy, upper), LANES / 2u);
  let odd = (lane & (LANES / 4u)) != 0u;
  var sum = select(two.x, two.y, odd) + subgroupShuffleXor(select(two.y, two.x, odd), LANES / 4u);
  for (var n = 0u; n < HALVINGS; n++) { sum += subgroupShuffleXor(sum, (LANES / 8u) >> n); }
  return sum;
}

fn add_up(sums: array<f32, SUMS>, thread: u32) {
  let subgroup = thread / LANES;
  let lane = thread % LANES;
  let first = subgroup / TEAM_SUBGROUPS * SUMS;
  for (var f = 0u; f < FOURS; f++) {
    let i = f * 4u;
    let v = vec4<f32>(sums[i], sums[min(i + 1u, LAST)], sums[min(i + 2u, LAST)], sums[min(i + 3u, LAST)]);
    let sum = sum_of_four(v, lane);
    let mine = i + lane / (LANES / 4u);
    if (lane % (LANES / 4u) == 0u && mine < SUMS) {
      sum_scratch[(first + mine) * TEAM_SUBGROUPS + subgroup % TEAM_SUBGROUPS] = sum;
    }
  }
  workgroupBarrier();
}
fn sum_of(team: u32, i: u32) -> f32 {
  var total = 0.0;
  for (var s = 0u; s < TEAM_SUBGROUPS; s++) { total += sum_scratch[(team * SUMS + i) * TEAM_SUBGROUPS + s]; }
  return total;
}
