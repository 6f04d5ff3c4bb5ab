// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) with both operands integers: a workgroup computes
// ROWS_PER_GROUP rows of one token by integer dot products of four.
//
// Over 32 columns, which share the activations' scale, sum x w = x_scale * (scale * sum xq q + offset * sum xq): the
// weights are unpacked with a mask and a shift a word and never become floats.
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;
@group(0) @binding(7) var<storage, read> x_scales: array<f32>;

const ONES: u32 = 0x01010101u;
fn sum_bytes(v: vec4<u32>) -> i32 {
  return dot4I8Packed(v.x, ONES) + dot4I8Packed(v.y, ONES) + dot4I8Packed(v.z, ONES) + dot4I8Packed(v.w, ONES);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let first = (id.x + id.z * 32768u) * ROWS_PER_GROUP;
  var sums: array<f32, ROWS_PER_GROUP>;
  for (var group = thread; group < X_GROUPS; group += WORKGROUP) {
    let at = token * X_GROUPS + group;
    let a = x[at * 2u];
    let b = x[at * 2u + 1u];
    let x_scale = x_scales[at];
    let x_sum = f32(sum_bytes(a) + sum_bytes(b));
    for (var i = 0u; i < ROWS_PER_GROUP; i++) {
      let row = min(first + i, ROWS - 1u);
      let so = scale_offset(row, group * 32u / BLOCK);
      sums[i] += x_scale * (so.x * f32(dot_group(row, group, a, b)) + so.y * x_sum);
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
