// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) with both operands integers, for many tokens: tiles of 64
// tokens by 128 rows.
//
// 32 columns at a time, 64 threads bring the activations to workgroup memory and 128 the weights, unpacked to bytes on
// the way; their next loads are in flight while all 256 threads multiply. A thread keeps 4 tokens by 8 rows: 24 reads
// of 16 bytes serve 256 integer dot products of four. Sums become floats without a conversion (see `to_float`).
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;
@group(0) @binding(7) var<storage, read> x_scales: array<f32>;

const TILE_TOKENS: u32 = 64u;
const TILE_ROWS: u32 = 128u;
var<workgroup> x_tile: array<vec4<u32>, TILE_TOKENS * 2u>;  // [half of the 32 columns][token], so that banks differ
var<workgroup> w_tile: array<vec4<u32>, TILE_ROWS * 2u>;    // [half of the 32 columns][row]
var<workgroup> x_scale: array<vec2<f32>, TILE_TOKENS>;      // scale, and scale times the sum of the quants
var<workgroup> w_scale: array<vec2<f32>, TILE_ROWS>;        // scale and offset

// |n| < 2^22: the bits of 1.5 * 2^23 plus n are those of the float 1.5 * 2^23 + n.
fn to_float(n: i32) -> f32 { return bitcast<f32>(0x4b400000 + n) - 12582912.0; }

fn dot_sixteen(a: vec4<u32>, b: vec4<u32>) -> i32 {
  return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let first_row = (id.x + id.z * 32768u) * TILE_ROWS;
  let first_token = id.y * TILE_TOKENS;
  let brings_weights = thread < TILE_ROWS;
  let brings_activations = thread >= TILE_ROWS && thread < TILE_ROWS + TILE_TOKENS;
  let load_row = min(first_row + thread, ROWS - 1u);
  let load_token = min(first_token + (thread - TILE_ROWS) % TILE_TOKENS, TOKENS - 1u);
  let my_row = thread % 16u;     // and 7 more, 16 apart
  let my_token = thread / 16u;   // and 3 more, 16 apart

  var bytes: Bytes;
  var scales: vec2<f32>;
  if (brings_weights) {
    bytes = unpacked(packed_at(load_row, 0u));
    scales = scale_offset(load_row, 0u);
  } else if (brings_activations) {
    bytes = Bytes(x[load_token * X_GROUPS * 2u], x[load_token * X_GROUPS * 2u + 1u]);
    scales = vec2<f32>(x_scales[load_token * X_GROUPS]);
  }
  var sums: array<vec4<f32>, 8>;  // [row], a component a token
  for (var group = 0u; group < X_GROUPS; group++) {
    if (brings_weights) {
      w_tile[thread] = bytes.a;
      w_tile[TILE_ROWS + thread] = bytes.b;
      w_scale[thread] = scales;
    } else if (brings_activations) {
      let token = thread - TILE_ROWS;
      x_tile[token] = bytes.a;
      x_tile[TILE_TOKENS + token] = bytes.b;
      x_scale[token] = scales * vec2<f32>(1.0, f32(sum_bytes(bytes.a) + sum_bytes(bytes.b)));
    }
    workgroupBarrier();
    let next = min(group + 1u, X_GROUPS - 1u);
    if (brings_weights) {
      bytes = unpacked(packed_at(load_row, next));
      scales = scale_offset(load_row, next * 32u / BLOCK);
    } else if (brings_activations) {
      let at = load_token * X_GROUPS + next;
      bytes = Bytes(x[at * 2u], x[at * 2u + 1u]);
      scales = vec2<f32>(x_scales[at]);
    }
    let a0 = x_tile[my_token];
    let a1 = x_tile[my_token + 16u];
    let a2 = x_tile[my_token + 32u];
    let a3 = x_tile[my_token + 48u];
    let b0 = x_tile[TILE_TOKENS + my_token];
    let b1 = x_tile[TILE_TOKENS + my_token + 16u];
    let b2 = x_tile[TILE_TOKENS + my_token + 32u];
    let b3 = x_tile[TILE_TOKENS + my_token + 48u];
    let s0 = x_scale[my_token];
    let s1 = x_scale[my_token + 16u];
    let s2 = x_scale[my_token + 32u];
    let s3 = x_scale[my_token + 48u];
    let scale = vec4<f32>(s0.x, s1.x, s2.x, s3.x);
    let sum = vec4<f32>(s0.y, s1.y, s2.y, s3.y);
    for (var r = 0u; r < 8u; r++) {
      let row = my_row + r * 16u;
      let wa = w_tile[row];
      let wb = w_tile[TILE_ROWS + row];
      let so = w_scale[row];
      let d = vec4<f32>(to_float(dot_sixteen(wa, a0) + dot_sixteen(wb, b0)),
                        to_float(dot_sixteen(wa, a1) + dot_sixteen(wb, b1)),
                        to_float(dot_sixteen(wa, a2) + dot_sixteen(wb, b2)),
                        to_float(dot_sixteen(wa, a3) + dot_sixteen(wb, b3)));
      sums[r] += (so.x * d) * scale + so.y * sum;
    }
    workgroupBarrier();
  }
  for (var r = 0u; r < 8u; r++) {
    let row = first_row + my_row + r * 16u;
    for (var t = 0u; t < 4u; t++) {
      let token = first_token + my_token + t * 16u;
      if (token < TOKENS && row < ROWS) {
        let index = token * OUT_ROWS + ROW_OFFSET + row;
        y[index] = y_type(sums[r][t] + bias_at(row) + residual_at(index));
      }
    }
  }
}
