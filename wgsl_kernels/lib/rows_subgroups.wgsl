// Sums of ROWS_PER_GROUP values over a workgroup of whole subgroups, with one barrier. Thread t gets those of t,
// t + WORKGROUP, ...
const SUBGROUPS: u32 = WORKGROUP / SUBGROUP_SIZE;
var<workgroup> row_scratch: array<f32, ROWS_PER_GROUP * SUBGROUPS>;

fn row_totals(sums: array<f32, ROWS_PER_GROUP>, thread: u32) -> array<f32, MINE> {
  for (var i = 0u; i < ROWS_PER_GROUP; i++) {
    let partial = subgroupAdd(sums[i]);
    if (thread % SUBGROUP_SIZE == 0u) { row_scratch[i * SUBGROUPS + thread / SUBGROUP_SIZE] = partial; }
  }
  workgroupBarrier();
  var mine: array<f32, MINE>;
  for (var j = 0u; j < MINE; j++) {
    let i = j * WORKGROUP + thread;
    if (i < ROWS_PER_GROUP) {
      var total = 0.0;
      for (var s = 0u; s < SUBGROUPS; s++) { total += row_scratch[i * SUBGROUPS + s]; }
      mine[j] = total;
    }
  }
  return mine;
}
