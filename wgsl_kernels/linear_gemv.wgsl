// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) for few tokens: a workgroup computes ROWS_PER_GROUP rows of
// one token.
//
// Every weight byte is read once, and neighbouring threads read neighbouring pieces of a row; a piece of activations,
// loaded once, serves all the rows. The number of steps is a constant, so that the compiler may issue the loads of
// several of them before the first is needed. The sums of all threads meet at the end.
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

const STEPS: u32 = (PIECES + WORKGROUP - 1u) / WORKGROUP;
const MINE: u32 = (ROWS_PER_GROUP + WORKGROUP - 1u) / WORKGROUP;  // rows that a thread stores

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let first = (id.x + id.z * 32768u) * ROWS_PER_GROUP;
  var sums: array<f32, ROWS_PER_GROUP>;
  for (var step = 0u; step < STEPS; step++) {
    let piece = step * WORKGROUP + thread;
    if (PIECES % WORKGROUP == 0u || piece < PIECES) {
      let v = columns_at(token, piece);
      for (var i = 0u; i < ROWS_PER_GROUP; i++) { sums[i] += piece_sum(min(first + i, ROWS - 1u), piece, v); }
    }
  }
  let totals = row_totals(sums, thread);
  for (var j = 0u; j < MINE; j++) {
    let i = j * WORKGROUP + thread;
    let row = first + i;
    if (i < ROWS_PER_GROUP && row < ROWS) {
      let index = token * OUT_ROWS + ROW_OFFSET + row;
      y[index] = y_type(totals[j] + bias_at(row) + residual_at(index));
    }
  }
}
