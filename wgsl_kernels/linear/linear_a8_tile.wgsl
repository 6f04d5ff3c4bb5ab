// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) with both operands integers, for many tokens: tiles of
// TILE_TOKENS tokens by TILE_ROWS rows.
//
// 32 columns at a time, a thread for each row loads the weights into workgroup memory, unpacked to bytes on the way, and
// one for each token the activations; their next loads are in flight while all threads multiply. A thread keeps 4
// tokens by ROWS_PER_THREAD rows: with 8 rows, 24 reads of 16 bytes serve 256 integer dot products of four. Sums become
// floats without a conversion (lib/from_bits).
// needs: tile_place (place_of, x_row), tile_rows (weight_row, store_two), packed (Bytes, unpacked, packed_at),
//   scale_offset (scale_offset), sum_bytes (sum_bytes), from_bits (from_bits, FIRST_BITS)
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;
@group(0) @binding(7) var<storage, read> x_scales: array<f32>;

const TOKEN_THREADS: u32 = TILE_TOKENS / 4u;
const ROW_THREADS: u32 = TILE_ROWS / ROWS_PER_THREAD;
const APART: u32 = ROW_THREADS;  // how far apart the rows of two sums that belong together stand in a tile
var<workgroup> x_tile: array<vec4<u32>, TILE_TOKENS * 2u>;  // [half of the 32 columns][token], so that banks differ
var<workgroup> w_tile: array<vec4<u32>, TILE_ROWS * 2u>;    // [half of the 32 columns][row]
var<workgroup> x_scale: array<vec2<f32>, TILE_TOKENS>;      // scale, and scale times the sum of the quants
var<workgroup> w_scale: array<vec2<f32>, TILE_ROWS>;        // scale and offset

fn dot_sixteen(a: vec4<u32>, b: vec4<u32>) -> i32 {
  return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}

@compute @workgroup_size(TOKEN_THREADS * ROW_THREADS)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let first_row = (id.x + id.z * 32768u) * TILE_ROWS;
  let place = place_of(id.y);
  if (place.first >= place.end) { return; }  // of no expert: uniform, and never so of tokens in order
  let first_token = place.first;
  let brings_weights = thread < TILE_ROWS;
  let brings_activations = thread >= TILE_ROWS && thread < TILE_ROWS + TILE_TOKENS;
  let load_row = weight_row(first_row + thread);
  let load_token = x_row(min(first_token + (thread - TILE_ROWS) % TILE_TOKENS, place.end - 1u));
  let my_row = thread % ROW_THREADS;    // and ROWS_PER_THREAD - 1 more, ROW_THREADS apart
  let my_token = thread / ROW_THREADS;  // and 3 more, TOKEN_THREADS apart

  var bytes: Bytes;
  var scales: vec2<f32>;
  if (brings_weights) {
    bytes = unpacked(packed_at(load_row, 0u));
    scales = scale_offset(load_row, 0u);
  } else if (brings_activations) {
    bytes = Bytes(x[load_token * X_GROUPS * 2u], x[load_token * X_GROUPS * 2u + 1u]);
    scales = vec2<f32>(x_scales[load_token * X_GROUPS]);
  }
  var sums: array<vec4<f32>, ROWS_PER_THREAD>;  // [row], a component a token
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
    let a1 = x_tile[my_token + TOKEN_THREADS];
    let a2 = x_tile[my_token + 2u * TOKEN_THREADS];
    let a3 = x_tile[my_token + 3u * TOKEN_THREADS];
    let b0 = x_tile[TILE_TOKENS + my_token];
    let b1 = x_tile[TILE_TOKENS + my_token + TOKEN_THREADS];
    let b2 = x_tile[TILE_TOKENS + my_token + 2u * TOKEN_THREADS];
    let b3 = x_tile[TILE_TOKENS + my_token + 3u * TOKEN_THREADS];
    let s0 = x_scale[my_token];
    let s1 = x_scale[my_token + TOKEN_THREADS];
    let s2 = x_scale[my_token + 2u * TOKEN_THREADS];
    let s3 = x_scale[my_token + 3u * TOKEN_THREADS];
    let scale = vec4<f32>(s0.x, s1.x, s2.x, s3.x);
    let sum = vec4<f32>(s0.y, s1.y, s2.y, s3.y);
    for (var r = 0u; r < ROWS_PER_THREAD; r++) {
      let row = my_row + r * ROW_THREADS;
      let wa = w_tile[row];
      let wb = w_tile[TILE_ROWS + row];
      let so = w_scale[row];
      let d = vec4<f32>(from_bits(FIRST_BITS + dot_sixteen(wa, a0) + dot_sixteen(wb, b0)),
                        from_bits(FIRST_BITS + dot_sixteen(wa, a1) + dot_sixteen(wb, b1)),
                        from_bits(FIRST_BITS + dot_sixteen(wa, a2) + dot_sixteen(wb, b2)),
                        from_bits(FIRST_BITS + dot_sixteen(wa, a3) + dot_sixteen(wb, b3)));
      sums[r] += (so.x * d) * scale + so.y * sum;
    }
    workgroupBarrier();
  }
  for (var pair = 0u; pair < ROWS_PER_THREAD / 2u; pair++) {
    let r = pair * 2u;
    for (var t = 0u; t < 4u; t++) {
      let token = first_token + my_token + t * TOKEN_THREADS;
      store_two(token, first_row + my_row + r * ROW_THREADS, vec2<f32>(sums[r][t], sums[r + 1u][t]));
    }
  }
}
