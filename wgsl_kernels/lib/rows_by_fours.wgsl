// Sums of ROWS_PER_TEAM values over a workgroup, four at a time by `workgroup_sum4`. Thread t gets those of t,
// t + WORKGROUP, ...
fn row_totals(sums: array<f32, ROWS_PER_TEAM>, thread: u32) -> array<f32, MINE> {
  const LAST: u32 = ROWS_PER_TEAM - 1u;
  var mine: array<f32, MINE>;
  for (var i = 0u; i < ROWS_PER_TEAM; i += 4u) {
    let four = vec4<f32>(sums[i], sums[min(i + 1u, LAST)], sums[min(i + 2u, LAST)], sums[min(i + 3u, LAST)]);
    let total = workgroup_sum4(four, thread);
    for (var j = 0u; j < MINE; j++) {
      let mine_at = j * WORKGROUP + thread;
      if (mine_at >= i && mine_at < i + 4u) { mine[j] = total[mine_at - i]; }
    }
  }
  return mine;
}
