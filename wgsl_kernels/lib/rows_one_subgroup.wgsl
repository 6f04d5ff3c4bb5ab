// Sums of ROWS_PER_TEAM values over the one subgroup that the workgroup is.
var<private> row_sums: array<f32, ROWS_PER_TEAM>;

fn meet(sums: array<f32, ROWS_PER_TEAM>, thread: u32) {
  for (var i = 0u; i < ROWS_PER_TEAM; i++) { row_sums[i] = subgroupAdd(sums[i]); }
}
fn row_total(i: u32) -> f32 { return row_sums[i]; }
