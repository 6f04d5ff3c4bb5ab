// Causal attention over the cache for many tokens where a subgroup has exactly 8 lanes (software adapters).
//
// A workgroup is one subgroup and computes 8 tokens of one head, 32 of its dimensions. Tiles of 32 positions: lane l
// scores positions l, l+8, l+16, l+24 for all 8 tokens, the softmax runs online (Milakov and Gimelshein 2018), then
// lane l adds up dimensions 4l to 4l+3. Queries and weights go round by broadcasts; nothing needs a barrier. An INT8
// cache is read a word at a time: what a wide load would save on a GPU is nothing where lanes are loaded one by one.
// needs: state (Rows), cache (quad_at, scale_at), seen (Seen, seen_by, position_at, slot_at, first_seen, end_of),
//   queries (QUERIES, query_for), scores (capped4), outer (Sums, outer)
alias Query = q_type;
@group(0) @binding(0) var<storage, read> q: array<Query>;
@group(0) @binding(2) var<uniform> state: Rows;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<y_type>>;

const QUADS: u32 = HEAD_DIM / 4u;
const SLICES: u32 = (HEAD_DIM + 31u) / 32u;
const LOWEST: f32 = -3.0e38;
const NOWHERE: u32 = 0xffffffffu;  // a position that no token sees

fn query(sinks: bool, token: u32, column: u32) -> f32 {
  return f32(query_for(sinks, min(token, TOKENS - 1u) * WIDTH + column)) * SCALE;
}
fn queries(sinks: bool, token: u32, column: u32) -> vec4<f32> {
  return vec4<f32>(query(sinks, token, column), query(sinks, token + 1u, column), query(sinks, token + 2u, column),
                   query(sinks, token + 3u, column));
}

// Four dimensions of the n-th value that is seen. Those at or beyond `count` have weight 0 and read the last one instead:
// what an earlier sequence left there may be infinite, and 0 times that is no number.
fn value(first: u32, seen: Seen, n: u32, count: u32, quad: u32) -> vec4<f32> {
  return quad_at(first + slot_at(seen, min(n, count - 1u)), quad);
}
fn slots_at(seen: Seen, n: vec4<u32>) -> vec4<u32> {
  return vec4<u32>(slot_at(seen, n.x), slot_at(seen, n.y), slot_at(seen, n.z), slot_at(seen, n.w));
}
fn positions_at(seen: Seen, n: vec4<u32>) -> vec4<u32> {
  return vec4<u32>(position_at(seen, n.x), position_at(seen, n.y), position_at(seen, n.z), position_at(seen, n.w));
}
fn scales_at(rows: vec4<u32>) -> vec4<f32> {
  return vec4<f32>(scale_at(rows.x), scale_at(rows.y), scale_at(rows.z), scale_at(rows.w));
}

// The first positions that four tokens see beside the sinks, and those behind the last ones.
struct Bounds { first: vec4<u32>, limit: vec4<u32> }
fn bounds_of(positions: vec4<u32>) -> Bounds {
  let limit = vec4<u32>(end_of(positions.x), end_of(positions.y), end_of(positions.z), end_of(positions.w));
  let own = limit - vec4<u32>(1u);
  return Bounds(vec4<u32>(first_seen(own.x), first_seen(own.y), first_seen(own.z), first_seen(own.w)), limit);
}

// Scores of one position for four tokens; what a token may not see becomes LOWEST.
fn masked(scores: vec4<f32>, position: u32, sees: Bounds) -> vec4<f32> {
  let at = vec4<u32>(position);
  let near = (at >= sees.first) | vec4<bool>(position < SINKS);
  return select(vec4<f32>(LOWEST), capped4(scores), near & (at < sees.limit));
}
fn largest(m: mat4x4<f32>) -> vec4<f32> { return subgroupMax(max(max(m[0], m[1]), max(m[2], m[3]))); }
fn total(m: mat4x4<f32>) -> vec4<f32> { return subgroupAdd(m[0] + m[1] + m[2] + m[3]); }
fn exponentials(m: mat4x4<f32>, top: vec4<f32>) -> mat4x4<f32> {
  return mat4x4<f32>(exp(m[0] - top), exp(m[1] - top), exp(m[2] - top), exp(m[3] - top));
}
fn scaled(m: mat4x4<f32>, factor: vec4<f32>) -> mat4x4<f32> {
  return mat4x4<f32>(m[0] * factor, m[1] * factor, m[2] * factor, m[3] * factor);
}
fn rotated(m: mat4x4<f32>) -> mat4x4<f32> { return mat4x4<f32>(m[1], m[2], m[3], m[0]); }

fn store(token: u32, head: u32, quad: u32, value: vec4<f32>) {
  if (token < TOKENS && quad < QUADS) { y[token * (WIDTH / 4u) + head * QUADS + quad] = vec4<y_type>(value); }
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = id.x / SLICES;
  let quad = (id.x % SLICES) * 8u + lane;
  let own_quad = min(quad, QUADS - 1u);
  let token = id.y * 8u;
  let heads = WIDTH / HEAD_DIM;
  let row = state[token];  // the others of the tile follow it in its sequence
  let keys = ((row.sequence * 2u) * KV_HEADS + head / (heads / KV_HEADS)) * CAPACITY;
  let values = keys + KV_HEADS * CAPACITY;
  let sees0 = bounds_of(vec4<u32>(row.position) + vec4<u32>(0u, 1u, 2u, 3u));  // tokens 0 to 3 of the tile
  let sees4 = bounds_of(vec4<u32>(row.position) + vec4<u32>(4u, 5u, 6u, 7u));
  // what any of them sees, counted as the first one sees it
  let seen = seen_by(row.position);
  let count = seen.count + end_of(row.position + min(8u, TOKENS - token) - 1u) - sees0.limit.x;

  var sums: Sums;
  var top0 = vec4<f32>(LOWEST);
  var top4 = vec4<f32>(LOWEST);
  var total0 = vec4<f32>();
  var total4 = vec4<f32>();
  // A token that sees nothing yet adds up what others see, until its first score multiplies that by exp(LOWEST - score), 0.
  var next = 0u;
  for (var start = 0u; start < count; start = next) {
    let sinks = QUERIES > 1u && start < SINKS;
    next = min(start + 32u, select(count, min(SINKS, count), sinks));  // a tile has one query of each token
    let at = vec4<u32>(start + lane) + vec4<u32>(0u, 8u, 16u, 24u);
    let own = select(vec4<u32>(NOWHERE), positions_at(seen, at), at < vec4<u32>(next));
    let slots = slots_at(seen, min(at, vec4<u32>(next - 1u)));
    let rows = vec4<u32>(keys) + slots;
    var scores = Sums();  // Naga zeroes a variable without a value once a function, not once an iteration
    for (var column = 0u; column < HEAD_DIM; column += 8u) {
      let a = queries(sinks, token, head * HEAD_DIM + column + lane);
      let b = queries(sinks, token + 4u, head * HEAD_DIM + column + lane);
      let i = column / 4u;
      let k = mat4x4<f32>(quad_at(rows.x, i), quad_at(rows.y, i), quad_at(rows.z, i), quad_at(rows.w, i));
      let lo = transpose(k);
      scores = outer(scores, lo[0], subgroupBroadcast(a, 0u), subgroupBroadcast(b, 0u));
      scores = outer(scores, lo[1], subgroupBroadcast(a, 1u), subgroupBroadcast(b, 1u));
      scores = outer(scores, lo[2], subgroupBroadcast(a, 2u), subgroupBroadcast(b, 2u));
      scores = outer(scores, lo[3], subgroupBroadcast(a, 3u), subgroupBroadcast(b, 3u));
      let j = i + 1u;
      let k4 = mat4x4<f32>(quad_at(rows.x, j), quad_at(rows.y, j), quad_at(rows.z, j), quad_at(rows.w, j));
      let hi = transpose(k4);
      scores = outer(scores, hi[0], subgroupBroadcast(a, 4u), subgroupBroadcast(b, 4u));
      scores = outer(scores, hi[1], subgroupBroadcast(a, 5u), subgroupBroadcast(b, 5u));
      scores = outer(scores, hi[2], subgroupBroadcast(a, 6u), subgroupBroadcast(b, 6u));
      scores = outer(scores, hi[3], subgroupBroadcast(a, 7u), subgroupBroadcast(b, 7u));
    }
    let ks = scales_at(rows);
    let s0 = mat4x4<f32>(masked(scores.t0[0] * ks.x, own.x, sees0), masked(scores.t0[1] * ks.y, own.y, sees0),
                         masked(scores.t0[2] * ks.z, own.z, sees0), masked(scores.t0[3] * ks.w, own.w, sees0));
    let s4 = mat4x4<f32>(masked(scores.t4[0] * ks.x, own.x, sees4), masked(scores.t4[1] * ks.y, own.y, sees4),
                         masked(scores.t4[2] * ks.z, own.z, sees4), masked(scores.t4[3] * ks.w, own.w, sees4));
    let new_top0 = max(top0, largest(s0));
    let new_top4 = max(top4, largest(s4));
    var w0 = exponentials(s0, new_top0);  // exp(LOWEST - top) is 0
    var w4 = exponentials(s4, new_top4);
    let correction0 = exp(top0 - new_top0);
    let correction4 = exp(top4 - new_top4);
    total0 = total0 * correction0 + total(w0);
    total4 = total4 * correction4 + total(w4);
    let vs = scales_at(vec4<u32>(values) + slots);
    w0 = mat4x4<f32>(w0[0] * vs.x, w0[1] * vs.y, w0[2] * vs.z, w0[3] * vs.w);
    w4 = mat4x4<f32>(w4[0] * vs.x, w4[1] * vs.y, w4[2] * vs.z, w4[3] * vs.w);
    top0 = new_top0;
    top4 = new_top4;
    sums = Sums(scaled(sums.t0, correction0), scaled(sums.t4, correction4));
    for (var r = 0u; r < 32u; r += 8u) {
      let p = start + r;
      let a = w0[0];
      let b = w4[0];
      sums = outer(sums, value(values, seen, p, next, own_quad), subgroupBroadcast(a, 0u), subgroupBroadcast(b, 0u));
      sums = outer(sums, value(values, seen, p + 1u, next, own_quad), subgroupBroadcast(a, 1u), subgroupBroadcast(b, 1u));
      sums = outer(sums, value(values, seen, p + 2u, next, own_quad), subgroupBroadcast(a, 2u), subgroupBroadcast(b, 2u));
      sums = outer(sums, value(values, seen, p + 3u, next, own_quad), subgroupBroadcast(a, 3u), subgroupBroadcast(b, 3u));
      sums = outer(sums, value(values, seen, p + 4u, next, own_quad), subgroupBroadcast(a, 4u), subgroupBroadcast(b, 4u));
      sums = outer(sums, value(values, seen, p + 5u, next, own_quad), subgroupBroadcast(a, 5u), subgroupBroadcast(b, 5u));
      sums = outer(sums, value(values, seen, p + 6u, next, own_quad), subgroupBroadcast(a, 6u), subgroupBroadcast(b, 6u));
      sums = outer(sums, value(values, seen, p + 7u, next, own_quad), subgroupBroadcast(a, 7u), subgroupBroadcast(b, 7u));
      w0 = rotated(w0);
      w4 = rotated(w4);
    }
  }
  let out0 = transpose(sums.t0);
  let out4 = transpose(sums.t4);
  store(token, head, quad, out0[0] / total0.x);
  store(token + 1u, head, quad, out0[1] / total0.y);
  store(token + 2u, head, quad, out0[2] / total0.z);
  store(token + 3u, head, quad, out0[3] / total0.w);
  store(token + 4u, head, quad, out4[0] / total4.x);
  store(token + 5u, head, quad, out4[1] / total4.y);
  store(token + 6u, head, quad, out4[2] / total4.z);
  store(token + 7u, head, quad, out4[3] / total4.w);
}
