// Causal attention for many tokens: a workgroup computes TILE_ROWS tokens of one head, against tiles of COLUMNS positions.
//
// Scores are a matrix product of queries and keys that come into workgroup memory in slices of SLICE quads of
// dimensions; the softmax runs online (Milakov and Gimelshein 2018), two threads a row; weights times values is a second
// product (FlashAttention: Dao et al. 2022). A thread keeps ROWS rows by four positions of the first and by every
// eighth quad of the second in registers, so that eight reads from workgroup memory serve 64 multiply-adds. The weights
// and values take the place of queries and keys, which keeps all within 16 KB. A cache in INT8 is dequantized on the way.
//
// Rows of one sequence that follow each other share what they read; a tile with rows of several goes over them in turn.
// needs: state (Rows), cache (quad_at, scale_at), seen (seen_by, position_at, slot_at, first_seen, end_of),
//   scores (capped4)
alias Query = vec4<q_type>;
@group(0) @binding(0) var<storage, read> q: array<Query>;
@group(0) @binding(2) var<uniform> state: Rows;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<y_type>>;

const ROWS: u32 = 4u;                                    // of a thread, ROW_THREADS apart
const ROW_THREADS: u32 = TILE_ROWS / ROWS;
const COLUMN_THREADS: u32 = 8u;
const THREADS: u32 = ROW_THREADS * COLUMN_THREADS;
const COLUMNS: u32 = 4u * COLUMN_THREADS;                // positions of a tile
const QUADS: u32 = HEAD_DIM / 4u;
const SLICE: u32 = 8u;
const VALUES: u32 = 8u >> ((QUADS - 1u) / 32u);          // positions whose values are in workgroup memory at a time
const OUT: u32 = (QUADS + COLUMN_THREADS - 1u) / COLUMN_THREADS;  // quads of the output that a thread owns
// Rows of workgroup memory have one quad more than they hold: else threads would meet in its banks.
const Q_STRIDE: u32 = TILE_ROWS + 1u;
const K_STRIDE: u32 = COLUMNS + 1u;
const W_STRIDE: u32 = COLUMN_THREADS + 1u;
const KEYS_AT: u32 = SLICE * Q_STRIDE;
const VALUES_AT: u32 = TILE_ROWS * W_STRIDE;
const LOWEST: f32 = -3.0e38;
var<workgroup> shared_quads: array<vec4<f32>, max(KEYS_AT + SLICE * K_STRIDE, VALUES_AT + VALUES * QUADS)>;
var<workgroup> halves: array<f32, THREADS>;              // of a row, two each: its largest score, at last its total
var<workgroup> corrections: array<f32, TILE_ROWS>;

fn load_queries(first_token: u32, head: u32, slice: u32, thread: u32) {
  for (var n = 0u; n < SLICE * TILE_ROWS / THREADS; n++) {
    let i = n * THREADS + thread;
    let quad = slice + i % SLICE;
    let token = min(first_token + i / SLICE, TOKENS - 1u);
    let found = vec4<f32>(q[token * (WIDTH / 4u) + head * QUADS + min(quad, QUADS - 1u)]) * SCALE;
    shared_quads[i % SLICE * Q_STRIDE + i / SLICE] = select(vec4<f32>(), found, quad < QUADS);
  }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = id.x;
  let first_token = ((TOKENS - 1u) / TILE_ROWS - id.y) * TILE_ROWS;  // the last ones see most: they begin first
  let own_row = thread / COLUMN_THREADS;
  let column = thread % COLUMN_THREADS;
  let kv_head = head / (WIDTH / HEAD_DIM / KV_HEADS);

  var sums: array<vec4<f32>, ROWS * OUT>;
  var top = LOWEST;  // of row thread / 2
  var total = 0.0;
  // A tile's rows of one sequence after those of another: bounds from a uniform, as barriers inside require.
  let rows = min(TILE_ROWS, TOKENS - first_token);
  var next = 0u;
  for (var begin = 0u; begin < rows; begin = next) {
    let sequence = state[first_token + begin].sequence;
    var lowest = state[first_token + begin].position;
    var highest = lowest;
    for (next = begin + 1u; next < rows; next++) {
      let row = state[first_token + next];
      if (row.sequence != sequence) { break; }
      lowest = min(lowest, row.position);
      highest = max(highest, row.position);
    }
    let keys = ((sequence * 2u) * KV_HEADS + kv_head) * CAPACITY;
    let values = keys + KV_HEADS * CAPACITY;
    let seen = seen_by(lowest);  // and what the others see behind it
    let count = seen.count + end_of(highest) - end_of(lowest);

    for (var start = 0u; start < count; start += COLUMNS) {
      var scores: array<vec4<f32>, ROWS>;
      for (var r = 0u; r < ROWS; r++) { scores[r] = vec4<f32>(); }
      for (var part = 0u; part < (QUADS + SLICE - 1u) / SLICE; part++) {
        let slice = part * SLICE;
        load_queries(first_token, head, slice, thread);
        for (var n = 0u; n < SLICE * COLUMNS / THREADS; n++) {
          let i = n * THREADS + thread;
          let place = i / SLICE;
          let quad = slice + i % SLICE;
          let row = keys + slot_at(seen, min(start + place, count - 1u));
          let found = quad_at(row, min(quad, QUADS - 1u)) * scale_at(row);
          // a thread's four positions follow each other, and are as far apart here as there are threads
          let at = KEYS_AT + i % SLICE * K_STRIDE + place % 4u * COLUMN_THREADS + place / 4u;
          shared_quads[at] = select(vec4<f32>(), found, quad < QUADS);
        }
        workgroupBarrier();
        for (var i = 0u; i < SLICE; i++) {
          let at = KEYS_AT + i * K_STRIDE + column;
          let k = transpose(mat4x4<f32>(shared_quads[at], shared_quads[at + COLUMN_THREADS],
                                        shared_quads[at + 2u * COLUMN_THREADS], shared_quads[at + 3u * COLUMN_THREADS]));
          for (var r = 0u; r < ROWS; r++) {
            let x = shared_quads[i * Q_STRIDE + r * ROW_THREADS + own_row];
            scores[r] = scores[r] + k[0] * x.x + k[1] * x.y + k[2] * x.z + k[3] * x.w;
          }
        }
        workgroupBarrier();
      }
      let at = vec4<u32>(start + column * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
      let positions = vec4<u32>(position_at(seen, at.x), position_at(seen, at.y), position_at(seen, at.z),
                                position_at(seen, at.w));
      for (var r = 0u; r < ROWS; r++) {
        let row = r * ROW_THREADS + own_row;
        let position = state[first_token + min(row, rows - 1u)].position;
        let sees = (positions >= vec4<u32>(first_seen(position))) & (positions < vec4<u32>(end_of(position)))
          & (at < vec4<u32>(count)) & vec4<bool>(row >= begin && row < next);
        shared_quads[row * W_STRIDE + column] = select(vec4<f32>(LOWEST), capped4(scores[r]), sees);
      }
      workgroupBarrier();

      // Two threads a row: the softmax of four quads each.
      let row = thread / 2u;
      let quads = row * W_STRIDE + thread % 2u * (COLUMN_THREADS / 2u);
      var own = vec4<f32>(LOWEST);
      for (var i = 0u; i < COLUMN_THREADS / 2u; i++) { own = max(own, shared_quads[quads + i]); }
      halves[thread] = max(max(own.x, own.y), max(own.z, own.w));
      workgroupBarrier();
      let new_top = max(top, max(halves[thread], halves[thread ^ 1u]));
      let correction = exp(top - new_top);
      top = new_top;
      var sum = vec4<f32>();
      for (var i = 0u; i < COLUMN_THREADS / 2u; i++) {
        let score = shared_quads[quads + i];
        // a row that has seen nothing yet has no top
        let weight = select(vec4<f32>(), exp(score - top), score > vec4<f32>(LOWEST));
        shared_quads[quads + i] = weight;
        sum += weight;
      }
      total = total * correction + sum.x + sum.y + sum.z + sum.w;
      corrections[row] = correction;
      workgroupBarrier();

      for (var r = 0u; r < ROWS; r++) {
        let factor = corrections[r * ROW_THREADS + own_row];
        for (var j = 0u; j < OUT; j++) { sums[r * OUT + j] *= factor; }
      }
      for (var part = 0u; part < (COLUMNS + VALUES - 1u) / VALUES; part++) {
        let first = part * VALUES;
        for (var n = 0u; n < (VALUES * QUADS + THREADS - 1u) / THREADS; n++) {
          let i = n * THREADS + thread;
          let place = start + first + i / QUADS;
          let row_of = values + slot_at(seen, min(place, count - 1u));
          // what lies behind the last position may be infinite, and 0 times that is no number
          let found = select(vec4<f32>(), quad_at(row_of, i % QUADS) * scale_at(row_of), place < count);
          if (i < VALUES * QUADS) { shared_quads[VALUES_AT + i] = found; }
        }
        workgroupBarrier();
        for (var four = 0u; four < (VALUES + 3u) / 4u; four++) {
          let i = four * 4u;
          var weights: array<vec4<f32>, ROWS>;
          for (var r = 0u; r < ROWS; r++) {
            weights[r] = shared_quads[(r * ROW_THREADS + own_row) * W_STRIDE + (first + i) / 4u];
          }
          for (var c = 0u; c < 4u; c++) {
            for (var j = 0u; j < OUT; j++) {
              let quad = min(column + j * COLUMN_THREADS, QUADS - 1u);
              let value = shared_quads[VALUES_AT + (i + c) * QUADS + quad];
              for (var r = 0u; r < ROWS; r++) { sums[r * OUT + j] += weights[r][c] * value; }
            }
          }
        }
        workgroupBarrier();
      }
    }
  }
  halves[thread] = total;
  workgroupBarrier();
  for (var r = 0u; r < ROWS; r++) {
    let row = r * ROW_THREADS + own_row;
    let factor = halves[row * 2u] + halves[row * 2u + 1u];
    for (var j = 0u; j < OUT; j++) {
      let quad = column + j * COLUMN_THREADS;
      if (row < rows && quad < QUADS) {
        y[(first_token + row) * (WIDTH / 4u) + head * QUADS + quad] = vec4<y_type>(sums[r * OUT + j] / factor);
      }
    }
  }
}
