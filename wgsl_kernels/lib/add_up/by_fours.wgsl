// provides: add_up, sum_of
// needs: reduce (workgroup_sum4), caller (SUMS)
// Sums over a workgroup, four at a time by `workgroup_sum4`.
const FOURS: u32 = (SUMS + 3u) / 4u;
var<private> all_sums: array<vec4<f32>, FOURS>;

fn add_up(sums: array<f32, SUMS>, thread: u32) {
  const LAST: u32 = SUMS - 1u;
  for (var f = 0u; f < FOURS; f++) {
    let i = f * 4u;
    let four = vec4<f32>(sums[i], sums[min(i + 1u, LAST)], sums[min(i + 2u, LAST)], sums[min(i + 3u, LAST)]);
    all_sums[f] = workgroup_sum4(four, thread);
  }
}
fn sum_of(team: u32, i: u32) -> f32 { return all_sums[i / 4u][i % 4u]; }
