// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) for few tokens: each subgroup computes ROWS_PER_GROUP rows of
// one token on its own.
//
// No workgroup memory and no barrier; and several subgroups share a workgroup, since starting one costs a GPU about
// 0.6 ns however small it is: 3584 workgroups of one subgroup take 4 us before any of them has done its work (H200).
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

const STEPS: u32 = (PIECES + SUBGROUP_SIZE - 1u) / SUBGROUP_SIZE;
const SLOTS: u32 = (ROWS_PER_GROUP + 3u) / 4u * 4u;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let lane = thread % SUBGROUP_SIZE;
  let subgroup = (id.x + id.z * 32768u) * (WORKGROUP / SUBGROUP_SIZE) + thread / SUBGROUP_SIZE;
  let first = subgroup * ROWS_PER_GROUP;
  var sums: array<f32, SLOTS>;
  for (var step = 0u; step < STEPS; step++) {
    let piece = step * SUBGROUP_SIZE + lane;
    if (PIECES % SUBGROUP_SIZE == 0u || piece < PIECES) {
      let v = columns_at(token, piece);
      for (var i = 0u; i < ROWS_PER_GROUP; i++) { sums[i] += piece_sum(min(first + i, ROWS - 1u), piece, v); }
    }
  }
  for (var i = 0u; i < ROWS_PER_GROUP; i += 4u) {
    let total = subgroupAdd(vec4<f32>(sums[i], sums[i + 1u], sums[i + 2u], sums[i + 3u]));
    let row = first + i + lane;
    if (lane < 4u && i + lane < ROWS_PER_GROUP && row < ROWS) {
      let index = token * OUT_ROWS + ROW_OFFSET + row;
      y[index] = y_type(total[lane] + bias_at(row) + residual_at(index));
    }
  }
}
