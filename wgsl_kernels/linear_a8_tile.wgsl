// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) with both operands integers, for many tokens: tiles of 64
// tokens by 64 rows.
//
// 128 threads bring 32 columns of the activations to workgroup memory; each keeps 4 rows by 8 tokens in registers,
// reads its rows' weights straight from memory, and folds the scales in once every 32 columns.
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;
@group(0) @binding(7) var<storage, read> x_scales: array<f32>;

const TILE: u32 = 64u;
var<workgroup> x_tile: array<vec4<u32>, TILE * 2u>;
var<workgroup> scale_tile: array<vec2<f32>, TILE>;  // scale, and scale times the sum of the quants

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let first_row = (id.x + id.z * 32768u) * TILE + (thread & 15u) * 4u;
  let first_token = id.y * TILE;
  let my_token = (thread >> 4u) * 8u;
  var sums: array<vec4<f32>, 8>;
  for (var group = 0u; group < X_GROUPS; group++) {
    if (thread < TILE) {
      let at = min(first_token + thread, TOKENS - 1u) * X_GROUPS + group;
      let a = x[at * 2u];
      let b = x[at * 2u + 1u];
      x_tile[thread * 2u] = a;
      x_tile[thread * 2u + 1u] = b;
      scale_tile[thread] = x_scales[at] * vec2<f32>(1.0, f32(sum_bytes(a) + sum_bytes(b)));
    }
    workgroupBarrier();
    let block = group * 32u / BLOCK;
    for (var r = 0u; r < 4u; r++) {
      let row = min(first_row + r, ROWS - 1u);
      let so = scale_offset(row, block);
      for (var t = 0u; t < 8u; t++) {
        let token = my_token + t;
        let d = f32(dot_group(row, group, x_tile[token * 2u], x_tile[token * 2u + 1u]));
        let xs = scale_tile[token];
        sums[t][r] += so.x * d * xs.x + so.y * xs.y;
      }
    }
    workgroupBarrier();
  }
  for (var t = 0u; t < 8u; t++) {
    let token = first_token + my_token + t;
    for (var r = 0u; r < 4u; r++) {
      let row = first_row + r;
      if (token < TOKENS && row < ROWS) {
        let index = token * OUT_ROWS + ROW_OFFSET + row;
        y[index] = y_type(sums[t][r] + bias_at(row) + residual_at(index));
      }
    }
  }
}
