// provides: add_up, sum_of
// needs: caller (SUMS)
// Sums over the one subgroup that the workgroup is.
var<private> all_sums: array<f32, SUMS>;

fn add_up(sums: array<f32, SUMS>, thread: u32) {
  for (var i = 0u; i < SUMS; i++) { all_sums[i] = subgroupAdd(sums[i]); }
}
fn sum_of(team: u32, i: u32) -> f32 { return all_sums[i]; }
