// Causal attention over the cache with grouped queries: a workgroup computes one head of one token. Library files
// say what a token sees and where that lies, and what becomes of scores.
//
// Tiles of TILE positions: each thread scores POSITIONS_PER_THREAD of them, the softmax runs online (Milakov and Gimelshein
// 2018), then threads add up values, each a piece of the head's dimensions over every GROUPS-th position of the tile.
// Loops are bounded by the state, a uniform, as barriers inside them require.
// needs: state (Rows), cache (PIECES, Piece, scale_at, piece_of, raw_at, PIECE, to_places, from_places),
//   seen (seen_by, slot_at), queries (QUERIES, query_for), scores (capped), reduce (workgroup_max, workgroup_sum)
alias Query = vec4<q_type>;
@group(0) @binding(0) var<storage, read> q: array<Query>;
@group(0) @binding(2) var<uniform> state: Rows;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<y_type>>;

const QUADS: u32 = HEAD_DIM / 4u;
const ROW_QUADS: u32 = PIECES * PIECE;                   // QUADS and the padding of a row of the cache
const SPAN: u32 = min(PIECES, WORKGROUP);                // threads that share the pieces of a row
const MINE: u32 = (PIECES + SPAN - 1u) / SPAN;           // pieces of the output that a thread owns
const GROUPS: u32 = WORKGROUP / SPAN;                    // positions whose values are added at a time
const TILE: u32 = WORKGROUP * POSITIONS_PER_THREAD;
var<workgroup> query: array<vec4<f32>, QUERIES * ROW_QUADS>;  // the one for sinks behind the other
var<workgroup> weights: array<f32, TILE>;
var<workgroup> parts: array<vec4<f32>, GROUPS * ROW_QUADS>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = id.x;
  let token = id.y;
  let heads = WIDTH / HEAD_DIM;
  let row = state[token];
  let keys = ((row.sequence * 2u) * KV_HEADS + head / (heads / KV_HEADS)) * CAPACITY;
  let values = keys + KV_HEADS * CAPACITY;
  let seen = seen_by(row.position);
  for (var i = thread; i < QUERIES * ROW_QUADS; i += WORKGROUP) {
    let own = i % ROW_QUADS;
    let quad = query_for(i >= ROW_QUADS, token * WIDTH / 4u + head * QUADS + min(own, QUADS - 1u));
    query[i] = select(vec4<f32>(), to_places(vec4<f32>(quad) * SCALE), own < QUADS);
  }
  workgroupBarrier();

  let group = thread / SPAN;
  var largest = -3.0e38;
  var total = 0.0;
  var sums: array<Piece, MINE>;
  for (var start = 0u; start < seen.count; start += TILE) {
    var scores: array<f32, POSITIONS_PER_THREAD>;
    var value_scales: array<f32, POSITIONS_PER_THREAD>;
    var own_largest = -3.0e38;
    for (var n = 0u; n < POSITIONS_PER_THREAD; n++) {
      let at = start + n * WORKGROUP + thread;
      var score = -3.0e38;
      value_scales[n] = 0.0;
      if (at < seen.count) {
        let slot = slot_at(seen, at);
        let own = select(0u, ROW_QUADS, QUERIES > 1u && at < SINKS);
        score = 0.0;
        value_scales[n] = scale_at(values + slot);
        for (var p = 0u; p < PIECES; p++) {
          let piece = piece_of(raw_at(keys + slot, p));
          for (var i = 0u; i < PIECE; i++) { score += dot(query[own + p * PIECE + i], piece[i]); }
        }
        score = capped(score * scale_at(keys + slot));
      }
      scores[n] = score;
      own_largest = max(own_largest, score);
    }
    let new_largest = max(largest, workgroup_max(own_largest, thread));
    var own_total = 0.0;
    for (var n = 0u; n < POSITIONS_PER_THREAD; n++) {
      let at = start + n * WORKGROUP + thread;
      let weight = select(0.0, exp(scores[n] - new_largest), at < seen.count);
      weights[n * WORKGROUP + thread] = weight * value_scales[n];
      own_total += weight;
    }
    let correction = exp(largest - new_largest);
    total = total * correction + workgroup_sum(own_total, thread);
    largest = new_largest;
    workgroupBarrier();  // the sum over a subgroup alone would not order `weights`
    let filled = min(TILE, seen.count - start);
    for (var m = 0u; m < MINE; m++) {
      let own = thread % SPAN + m * SPAN;
      if (own < PIECES && group < GROUPS) {
        var sum = sums[m];
        for (var i = 0u; i < PIECE; i++) { sum[i] *= correction; }
        for (var j = group; j < filled; j += GROUPS) {
          let piece = piece_of(raw_at(values + slot_at(seen, start + j), own));
          for (var i = 0u; i < PIECE; i++) { sum[i] += weights[j] * piece[i]; }
        }
        sums[m] = sum;
      }
    }
    workgroupBarrier();
  }
  for (var m = 0u; m < MINE; m++) {
    let own = thread % SPAN + m * SPAN;
    if (own < PIECES && group < GROUPS) {
      for (var i = 0u; i < PIECE; i++) { parts[group * ROW_QUADS + own * PIECE + i] = sums[m][i]; }
    }
  }
  workgroupBarrier();
  for (var quad = thread; quad < QUADS; quad += WORKGROUP) {
    var sum = vec4<f32>();
    for (var g = 0u; g < GROUPS; g++) { sum += parts[g * ROW_QUADS + quad]; }
    y[token * WIDTH / 4u + head * QUADS + quad] = vec4<y_type>(from_places(sum) / total);
  }
}
