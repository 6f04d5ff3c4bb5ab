// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) for many tokens: tiles of TILE_TOKENS tokens by TILE_ROWS rows.
//
// All threads load TILE_COLUMNS columns of both operands into workgroup memory, weights dequantized on the way, and each
// keeps TOKENS_PER_THREAD tokens by ROWS_PER_THREAD rows in registers: with 8 by 4, 12 reads from workgroup memory serve
// 32 multiply-adds. Loops that load have constant bounds, and load all before they store anything.
// needs: octet (Octet), x (x4), tile_place (place_of, x_row), tile_rows (weight_row, store_two),
//   scale_offset (scale_offset), weights (load_octet)
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

const ROW_THREADS: u32 = TILE_ROWS / ROWS_PER_THREAD;
const THREADS: u32 = TILE_TOKENS / TOKENS_PER_THREAD * ROW_THREADS;
const QUADS: u32 = ROWS_PER_THREAD / 4u;
const APART: u32 = 1u;  // how far apart the rows of two sums that belong together stand in a tile
const OCTETS: u32 = TILE_COLUMNS / 8u;  // of a token or row of the tile, at a time
const X_OCTETS: u32 = TILE_TOKENS * OCTETS;
const W_OCTETS: u32 = TILE_ROWS * OCTETS;
const X_TURNS: u32 = (X_OCTETS + THREADS - 1u) / THREADS;
const W_TURNS: u32 = (W_OCTETS + THREADS - 1u) / THREADS;
var<workgroup> x_tile: array<f32, TILE_COLUMNS * TILE_TOKENS>;  // [column][token]
var<workgroup> w_tile: array<f32, TILE_COLUMNS * TILE_ROWS>;    // [column][row]

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let first_row = (id.x + id.z * 32768u) * TILE_ROWS;
  let place = place_of(id.y);
  if (place.first >= place.end) { return; }  // of no expert: uniform, and never so of tokens in order
  let first_token = place.first;
  let my_row = thread % ROW_THREADS * ROWS_PER_THREAD;
  let my_token = thread / ROW_THREADS * TOKENS_PER_THREAD;
  var sums: array<vec4<f32>, TOKENS_PER_THREAD * QUADS>;
  for (var turn = 0u; turn < (COLUMNS + TILE_COLUMNS - 1u) / TILE_COLUMNS; turn++) {
    let k = turn * TILE_COLUMNS;
    var x_octets: array<Octet, X_TURNS>;
    var w_octets: array<Octet, W_TURNS>;
    for (var n = 0u; n < X_TURNS; n++) {
      let i = n * THREADS + thread;
      let token = first_token + i / OCTETS;
      let column = k + i % OCTETS * 8u;
      x_octets[n] = Octet();
      if (token < place.end) {
        let row = x_row(token);
        x_octets[n] = Octet(x4(row, column), x4(row, column + 4u));
      }
    }
    for (var n = 0u; n < W_TURNS; n++) {
      let i = n * THREADS + thread;
      let row = weight_row(first_row + i / OCTETS);
      let column = k + i % OCTETS * 8u;
      let so = scale_offset(row, column / BLOCK);
      let w = load_octet(row, column >> 3u);
      w_octets[n] = Octet(w.lo * so.x + so.y, w.hi * so.x + so.y);
    }
    for (var n = 0u; n < X_TURNS; n++) {
      let i = n * THREADS + thread;
      let at = i % OCTETS * 8u * TILE_TOKENS + i / OCTETS;
      if (X_OCTETS % THREADS == 0u || i < X_OCTETS) {
        for (var c = 0u; c < 4u; c++) {
          x_tile[at + c * TILE_TOKENS] = x_octets[n].lo[c];
          x_tile[at + (c + 4u) * TILE_TOKENS] = x_octets[n].hi[c];
        }
      }
    }
    for (var n = 0u; n < W_TURNS; n++) {
      let i = n * THREADS + thread;
      let at = i % OCTETS * 8u * TILE_ROWS + i / OCTETS;
      if (W_OCTETS % THREADS == 0u || i < W_OCTETS) {
        for (var c = 0u; c < 4u; c++) {
          w_tile[at + c * TILE_ROWS] = w_octets[n].lo[c];
          w_tile[at + (c + 4u) * TILE_ROWS] = w_octets[n].hi[c];
        }
      }
    }
    workgroupBarrier();
    for (var i = 0u; i < TILE_COLUMNS; i++) {
      var weights: array<vec4<f32>, QUADS>;
      for (var q = 0u; q < QUADS; q++) {
        let b = i * TILE_ROWS + my_row + q * 4u;
        weights[q] = vec4<f32>(w_tile[b], w_tile[b + 1u], w_tile[b + 2u], w_tile[b + 3u]);
      }
      for (var t = 0u; t < TOKENS_PER_THREAD; t++) {
        let value = x_tile[i * TILE_TOKENS + my_token + t];
        for (var q = 0u; q < QUADS; q++) { sums[t * QUADS + q] += weights[q] * value; }
      }
    }
    workgroupBarrier();
  }
  for (var t = 0u; t < TOKENS_PER_THREAD; t++) {
    let token = first_token + my_token + t;
    for (var pair = 0u; pair < ROWS_PER_THREAD / 2u; pair++) {
      let r = pair * 2u;
      let four = sums[t * QUADS + r / 4u];
      store_two(token, first_row + my_row + r, select(four.xy, four.zw, r % 4u == 2u));
    }
  }
}
