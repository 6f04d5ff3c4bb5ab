// provides: keep_sums, made_sum
// needs: add_up/subgroups (sum_of_four, LANES, TEAM_SUBGROUPS), caller (ROUNDS, SUMS)
// What the subgroups of a team have of its sums, kept for all rounds: no barrier stands between these, so that none waits for
// the slowest, and loads of the next round are not held up. The caller has the one barrier behind the last.
var<workgroup> round_sums: array<f32, ROUNDS * TEAMS * ROWS_PER_TEAM * TEAM_SUBGROUPS>;

fn keep_sums(round: u32, sums: array<f32, SUMS>, thread: u32) {
  let subgroup = thread / LANES;
  let lane = thread % LANES;
  let first = (round * TEAMS + subgroup / TEAM_SUBGROUPS) * ROWS_PER_TEAM;
  for (var f = 0u; f < (ROWS_PER_TEAM + 3u) / 4u; f++) {
    let i = f * 4u;
    const LAST_ROW: u32 = ROWS_PER_TEAM - 1u;
    let v = vec4<f32>(sums[i], sums[min(i + 1u, LAST_ROW)], sums[min(i + 2u, LAST_ROW)], sums[min(i + 3u, LAST_ROW)]);
    let sum = sum_of_four(v, lane);
    let mine = i + lane / (LANES / 4u);
    if (lane % (LANES / 4u) == 0u && mine < ROWS_PER_TEAM) {
      round_sums[(first + mine) * TEAM_SUBGROUPS + subgroup % TEAM_SUBGROUPS] = sum;
    }
  }
}
fn made_sum(slot: u32) -> f32 {
  var total = 0.0;
  for (var s = 0u; s < TEAM_SUBGROUPS; s++) { total += round_sums[slot * TEAM_SUBGROUPS + s]; }
  return total;
}
