// provides: row_factor
// needs: x_a8/row (row_facts, X_GROUPS)
// The norm's factor, from the squares that lie beside a row in workgroup memory: once, where each round of a product would
// add up one more sum. In uniform control flow.
fn row_factor(team: u32) -> f32 {
  let lane = subgroupExclusiveAdd(1u);
  var sum = 0.0;
  for (var turn = 0u; turn < (X_GROUPS + SUBGROUP_SIZE - 1u) / SUBGROUP_SIZE; turn++) {
    let group = turn * SUBGROUP_SIZE + lane;
    if (group < X_GROUPS) { sum += row_facts[group].y; }
  }
  return 1.0 / sqrt(subgroupAdd(sum) / f32(COLUMNS) + EPS);
}
