// Sums of ROWS_PER_TEAM values over a workgroup, four at a time by `workgroup_sum4`.
const FOURS: u32 = (ROWS_PER_TEAM + 3u) / 4u;
var<private> row_sums: array<vec4<f32>, FOURS>;

fn meet(sums: array<f32, ROWS_PER_TEAM>, thread: u32) {
  const LAST: u32 = ROWS_PER_TEAM - 1u;
  for (var f = 0u; f < FOURS; f++) {
    let i = f * 4u;
    let four = vec4<f32>(sums[i], sums[min(i + 1u, LAST)], sums[min(i + 2u, LAST)], sums[min(i + 3u, LAST)]);
    row_sums[f] = workgroup_sum4(four, thread);
  }
}
fn row_total(i: u32) -> f32 { return row_sums[i / 4u][i % 4u]; }
