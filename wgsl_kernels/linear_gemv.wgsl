// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) for few tokens: a workgroup computes ROWS rows of one token.
//
// Every weight byte is read once, in pieces of 32 columns a thread; activations loaded once serve ROWS rows. Scale
// and zero-point are folded in once a piece: sum w x = scale * sum q x + offset * sum x. The sums of all threads
// meet at the end, four rows at a time.
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

fn dot_group(p: Packed, v: array<vec4<f32>, 8>) -> f32 {
  let a = octet(p, 0u);
  let b = octet(p, 1u);
  let c = octet(p, 2u);
  let d = octet(p, 3u);
  return dot(a.lo, v[0]) + dot(a.hi, v[1]) + dot(b.lo, v[2]) + dot(b.hi, v[3])
       + dot(c.lo, v[4]) + dot(c.hi, v[5]) + dot(d.lo, v[6]) + dot(d.hi, v[7]);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let first = (id.x + id.z * 32768u) * ROWS_PER_GROUP;
  var sums: array<f32, ROWS_PER_GROUP>;
  for (var group = thread; group < GROUPS; group += WORKGROUP) {
    let k = group * 32u;
    let v = array<vec4<f32>, 8>(x4(token, k), x4(token, k + 4u), x4(token, k + 8u), x4(token, k + 12u),
                                x4(token, k + 16u), x4(token, k + 20u), x4(token, k + 24u), x4(token, k + 28u));
    let v_sum = dot(v[0] + v[1] + v[2] + v[3] + v[4] + v[5] + v[6] + v[7], vec4<f32>(1.0));
    for (var i = 0u; i < ROWS_PER_GROUP; i++) {
      let row = min(first + i, ROWS - 1u);
      let so = scale_offset(row, k / BLOCK);
      sums[i] += so.x * dot_group(load_packed(row, group), v) + so.y * v_sum;
    }
  }
  for (var i = 0u; i < ROWS_PER_GROUP; i += 4u) {
    let total = workgroup_sum4(vec4<f32>(sums[i], sums[i + 1u], sums[i + 2u], sums[i + 3u]), thread);
    let row = first + i + thread;
    if (thread < 4u && row < ROWS) {
      let index = token * OUT_ROWS + ROW_OFFSET + row;
      y[index] = y_type(total[thread] + bias_at(row) + residual_at(index));
    }
  }
}
