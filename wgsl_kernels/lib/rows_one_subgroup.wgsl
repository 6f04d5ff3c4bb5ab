// Sums of ROWS_PER_TEAM values over the one subgroup that the workgroup is. Thread t gets those of t, t + WORKGROUP, ...
fn row_totals(sums: array<f32, ROWS_PER_TEAM>, thread: u32) -> array<f32, MINE> {
  var mine: array<f32, MINE>;
  for (var i = 0u; i < ROWS_PER_TEAM; i++) {
    let total = subgroupAdd(sums[i]);
    if (i % WORKGROUP == thread) { mine[i / WORKGROUP] = total; }
  }
  return mine;
}
