// Decode attention over a part of the cache: a workgroup takes one split of one head of keys and values, for up to four
// of the query heads that share it, so that the cache is read once.
//
// LANES threads read a position together, a piece each side by side, two positions at a time, and keep a softmax of
// their own (online, Milakov and Gimelshein 2018): no barrier in the loop, many loads in flight. The teams meet at the
// end. What a split leaves is not normalised: sums of values weighted by exp(score - largest), the largest score, and
// the sum of weights; `attention_reduce` puts the splits together (flash-decoding, Dao et al. 2023).
//
// Four queries are the components of a vector and every index in the loop is a constant: drivers keep what they cannot
// unroll in memory, which made this kernel half as fast (H200).
// needs: state (Rows), cache (PIECES, Raw, raw_at, piece_of, scale_at, PIECE, PLACES), seen (seen_by, slot_at),
//   queries (QUERIES, query_for), scores (capped4)
alias Query = vec4<q_type>;
@group(0) @binding(0) var<storage, read> q: array<Query>;
@group(0) @binding(2) var<uniform> state: Rows;
@group(0) @binding(3) var<storage, read_write> sums: array<vec4<f32>>;   // [token][head][split][quad]
@group(0) @binding(4) var<storage, read_write> stats: array<vec2<f32>>;  // [token][head][split]: largest, total

const QUADS: u32 = HEAD_DIM / 4u;
const SHARING: u32 = HEADS / KV_HEADS;             // query heads of one head of keys
const FOURS: u32 = (SHARING + 3u) / 4u;
const LOADS: u32 = (PIECES + LANES - 1u) / LANES;  // pieces of a position that a thread owns
const OWN: u32 = LOADS * PIECE;                    // and their quads
const TEAMS: u32 = WORKGROUP / LANES;
const OTHERS: u32 = SPLITS - (QUERIES - 1u);       // sinks with a query of their own are a split of their own, the first
const NONE: f32 = -0x1p127f;  // below every score
alias Loaded = array<Raw, LOADS>;
alias Quads = array<vec4<f32>, OWN>;
var<workgroup> team_largest: array<vec4<f32>, TEAMS>;
var<workgroup> team_total: array<vec4<f32>, TEAMS>;
var<workgroup> team_sums: array<vec4<f32>, TEAMS * QUADS>;

fn own_quad(o: u32, lane: u32) -> u32 { return (o / PIECE * LANES + lane) * PIECE + o % PIECE; }

fn query_at(sinks: bool, token: u32, head: u32, lane: u32) -> Quads {
  var quads: Quads;
  for (var o = 0u; o < OWN; o++) {
    let quad = own_quad(o, lane);
    let at = (token * HEADS + min(head, HEADS - 1u)) * QUADS + quad;
    if (quad < QUADS) { quads[o] = vec4<f32>(query_for(sinks, at)) * SCALE * PLACES; }
  }
  return quads;
}

fn cached(row: u32, lane: u32) -> Loaded {
  var loaded: Loaded;
  // past the end of a head the query is 0 and the sum is not stored
  for (var l = 0u; l < LOADS; l++) { loaded[l] = raw_at(row, min(l * LANES + lane, PIECES - 1u)); }
  return loaded;
}

fn quads_of(loaded: Loaded) -> Quads {
  var quads: Quads;
  for (var l = 0u; l < LOADS; l++) {
    let piece = piece_of(loaded[l]);
    for (var i = 0u; i < PIECE; i++) { quads[l * PIECE + i] = piece[i]; }
  }
  return quads;
}

fn over_lanes(value: vec4<f32>) -> vec4<f32> {
  var sum = value;
  if (LANES > 16u) { sum += subgroupShuffleXor(sum, 16u); }
  if (LANES > 8u) { sum += subgroupShuffleXor(sum, 8u); }
  if (LANES > 4u) { sum += subgroupShuffleXor(sum, 4u); }
  sum += subgroupShuffleXor(sum, 2u);
  return sum + subgroupShuffleXor(sum, 1u);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let kv_head = id.x / FOURS;
  let split = id.y;
  let token = id.z;
  let lane = thread % LANES;
  let team = thread / LANES;
  let row = state[token];
  let first_head = kv_head * SHARING + (id.x % FOURS) * 4u;
  let keys = ((row.sequence * 2u) * KV_HEADS + kv_head) * CAPACITY;
  let values = keys + KV_HEADS * CAPACITY;
  let seen = seen_by(row.position);
  let of_sinks = QUERIES > 1u && split == 0u;
  let apart = select(0u, min(SINKS, seen.count), QUERIES > 1u);
  let length = max((seen.count - apart + OTHERS - 1u) / OTHERS, LEAST);
  let first = select(min(apart + (split - (QUERIES - 1u)) * length, seen.count), 0u, of_sinks);
  let limit = select(min(first + length, seen.count), apart, of_sinks);

  let query0 = query_at(of_sinks, token, first_head, lane);
  let query1 = query_at(of_sinks, token, first_head + 1u, lane);
  let query2 = query_at(of_sinks, token, first_head + 2u, lane);
  let query3 = query_at(of_sinks, token, first_head + 3u, lane);
  var sum0: Quads;
  var sum1: Quads;
  var sum2: Quads;
  var sum3: Quads;
  var largest = vec4<f32>(NONE);
  var total = vec4<f32>();
  for (var start = first; start < limit; start += 2u * TEAMS) {
    let a = start + team;
    let b = a + TEAMS;
    let row_a = slot_at(seen, min(a, limit - 1u));  // of what lies behind, which may be infinite, 0 times is no number
    let row_b = slot_at(seen, min(b, limit - 1u));
    let loaded_key_a = cached(keys + row_a, lane);
    let loaded_key_b = cached(keys + row_b, lane);
    let loaded_value_a = cached(values + row_a, lane);
    let loaded_value_b = cached(values + row_b, lane);
    let key_scale_a = scale_at(keys + row_a);
    let key_scale_b = scale_at(keys + row_b);
    let value_scale_a = scale_at(values + row_a);
    let value_scale_b = scale_at(values + row_b);
    let key_a = quads_of(loaded_key_a);
    let key_b = quads_of(loaded_key_b);
    var score_a = vec4<f32>();
    var score_b = vec4<f32>();
    for (var o = 0u; o < OWN; o++) {
      score_a += vec4<f32>(dot(query0[o], key_a[o]), dot(query1[o], key_a[o]), dot(query2[o], key_a[o]),
                           dot(query3[o], key_a[o]));
      score_b += vec4<f32>(dot(query0[o], key_b[o]), dot(query1[o], key_b[o]), dot(query2[o], key_b[o]),
                           dot(query3[o], key_b[o]));
    }
    score_a = select(vec4<f32>(NONE), capped4(over_lanes(score_a) * key_scale_a), a < limit);
    score_b = select(vec4<f32>(NONE), capped4(over_lanes(score_b) * key_scale_b), b < limit);
    let new_largest = max(largest, max(score_a, score_b));
    let correction = exp(largest - new_largest);
    let weight_a = select(vec4<f32>(), exp(score_a - new_largest), a < limit);
    let weight_b = select(vec4<f32>(), exp(score_b - new_largest), b < limit);
    largest = new_largest;
    total = total * correction + weight_a + weight_b;
    let value_a = quads_of(loaded_value_a);
    let value_b = quads_of(loaded_value_b);
    let part_a = weight_a * value_scale_a;
    let part_b = weight_b * value_scale_b;
    for (var o = 0u; o < OWN; o++) {
      sum0[o] = sum0[o] * correction.x + part_a.x * value_a[o] + part_b.x * value_b[o];
      sum1[o] = sum1[o] * correction.y + part_a.y * value_a[o] + part_b.y * value_b[o];
      sum2[o] = sum2[o] * correction.z + part_a.z * value_a[o] + part_b.z * value_b[o];
      sum3[o] = sum3[o] * correction.w + part_a.w * value_a[o] + part_b.w * value_b[o];
    }
  }
  if (lane == 0u) {
    team_largest[team] = largest;
    team_total[team] = total;
  }
  workgroupBarrier();
  var all_largest = vec4<f32>(NONE);
  var all_total = vec4<f32>();
  for (var t = 0u; t < TEAMS; t++) { all_largest = max(all_largest, team_largest[t]); }
  for (var t = 0u; t < TEAMS; t++) { all_total += team_total[t] * exp(team_largest[t] - all_largest); }
  let factor = exp(largest - all_largest);
  for (var g = 0u; g < min(4u, SHARING); g++) {
    for (var o = 0u; o < OWN; o++) {
      let quad = own_quad(o, lane);
      let sum = select(select(sum2[o], sum3[o], g == 3u), select(sum0[o], sum1[o], g == 1u), g < 2u);
      if (quad < QUADS) { team_sums[team * QUADS + quad] = sum * factor[g] * PLACES; }
    }
    workgroupBarrier();
    let head = first_head + g;
    if (head < (kv_head + 1u) * SHARING) {
      let out = (token * HEADS + head) * SPLITS + split;
      for (var quad = thread; quad < QUADS; quad += WORKGROUP) {
        var together = vec4<f32>();
        for (var t = 0u; t < TEAMS; t++) { together += team_sums[t * QUADS + quad]; }
        sums[out * QUADS + quad] = together;
      }
      if (thread == 0u) { stats[out] = vec2<f32>(all_largest[g], all_total[g]); }
    }
    workgroupBarrier();
  }
}
