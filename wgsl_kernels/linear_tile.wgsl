// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) for many tokens: tiles of 64 tokens by 64 rows.
//
// 128 threads bring 16 columns of both operands to workgroup memory, weights dequantized on the way, and each keeps
// 8 tokens by 4 rows in registers: 12 reads from workgroup memory serve 32 multiply-adds. 8 KB of workgroup memory.
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

const TILE: u32 = 64u;
const STEP: u32 = 16u;
var<workgroup> x_tile: array<f32, STEP * TILE>;  // [column][token]
var<workgroup> w_tile: array<f32, STEP * TILE>;  // [column][row]

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let first_row = (id.x + id.z * 32768u) * TILE;
  let first_token = id.y * TILE;
  let load_line = thread >> 1u;
  let load_octet_index = thread & 1u;
  let load_token = first_token + load_line;
  let load_row = min(first_row + load_line, ROWS - 1u);
  let my_row = (thread & 15u) * 4u;
  let my_token = (thread >> 4u) * 8u;
  var sums: array<vec4<f32>, 8>;
  for (var k = 0u; k < (COLUMNS + STEP - 1u) / STEP * STEP; k += STEP) {
    let column = k + load_octet_index * 8u;
    var x_lo = vec4<f32>();
    var x_hi = vec4<f32>();
    if (load_token < TOKENS) {
      x_lo = x4(load_token, column);
      x_hi = x4(load_token, column + 4u);
    }
    let so = scale_offset(load_row, column / BLOCK);
    let w = load_octet(load_row, column >> 3u);
    let w_lo = w.lo * so.x + so.y;
    let w_hi = w.hi * so.x + so.y;
    let at = load_octet_index * 8u * TILE + load_line;
    for (var i = 0u; i < 4u; i++) {
      x_tile[at + i * TILE] = x_lo[i];
      x_tile[at + (i + 4u) * TILE] = x_hi[i];
      w_tile[at + i * TILE] = w_lo[i];
      w_tile[at + (i + 4u) * TILE] = w_hi[i];
    }
    workgroupBarrier();
    for (var i = 0u; i < STEP; i++) {
      let b = i * TILE + my_row;
      let weights = vec4<f32>(w_tile[b], w_tile[b + 1u], w_tile[b + 2u], w_tile[b + 3u]);
      for (var t = 0u; t < 8u; t++) { sums[t] += weights * x_tile[i * TILE + my_token + t]; }
    }
    workgroupBarrier();
  }
  for (var t = 0u; t < 8u; t++) {
    let token = first_token + my_token + t;
    for (var r = 0u; r < 4u; r++) {
      let row = first_row + my_row + r;
      if (token < TOKENS && row < ROWS) {
        let index = token * OUT_ROWS + ROW_OFFSET + row;
        y[index] = y_type(sums[t][r] + bias_at(row) + residual_at(index));
      }
    }
  }
}
