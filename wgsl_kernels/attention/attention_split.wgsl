// Decode attention over a part of the cache: a workgroup takes one split of one head of keys and values, for up to four
// of the query heads that share it, so that the cache is read once.
//
// First the scores of all positions (of KEPT at a time), then their values: between them the scores lie in workgroup
// memory, where every thread makes weights of its share, so that each exponential is computed once. LANES threads read a
// position together, a piece each side by side, POSITIONS of them at a time, and what comes next is on its way while
// they compute: a workgroup has no other to hide its loads behind. What a split leaves is not normalised: sums of values
// weighted by exp(score - largest), the largest score, and the sum of weights; `attention_reduce` puts the splits
// together (flash-decoding, Dao et al. 2023).
//
// Four queries are the components of a vector and every index in the loop is a constant: drivers keep what they cannot
// unroll in memory, which made this kernel half as fast (H200).
// needs: state (Rows), cache (PIECES, Raw, raw_at, piece_of, scale_at, PIECE, PLACES), seen (Seen, seen_by, slot_at),
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
const SETS: u32 = POSITIONS / 4u;
const TURN: u32 = POSITIONS * TEAMS;               // positions that a workgroup reads at a time
const KEPT: u32 = 512u;                            // positions whose scores are kept: whole turns
const SHARES: u32 = KEPT / WORKGROUP;
const OTHERS: u32 = SPLITS - (QUERIES - 1u);       // sinks with a query of their own are a split of their own, the first
const TOGETHER: u32 = select(1u, 2u, TEAMS * QUADS <= 256u);  // heads that are added up at a time
const NONE: f32 = -0x1p127f;  // below every score
alias Loaded = array<Raw, LOADS>;
alias Held = array<Loaded, POSITIONS>;
alias Quads = array<vec4<f32>, OWN>;
// Of a position for four queries: scores, then weights. At the end, sums of values by head, team and quad.
var<workgroup> shared_quads: array<vec4<f32>, max(KEPT, TOGETHER * TEAMS * QUADS)>;
var<workgroup> team_largest: array<vec4<f32>, TEAMS>;
var<workgroup> team_total: array<vec4<f32>, TEAMS>;

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

fn quads_of(loaded: Loaded) -> Quads {
  var quads: Quads;
  for (var l = 0u; l < LOADS; l++) {
    let piece = piece_of(loaded[l]);
    for (var i = 0u; i < PIECE; i++) { quads[l * PIECE + i] = piece[i]; }
  }
  return quads;
}

// Of the positions from `first` on that `seen` counts, every TEAMS-th one; behind `last` that one again, since 0 times
// what lies there, which may be infinite, is no number.
fn held_at(plane: u32, seen: Seen, first: u32, last: u32, lane: u32) -> Held {
  var held: Held;
  for (var i = 0u; i < POSITIONS; i++) {
    let row = plane + slot_at(seen, min(first + i * TEAMS, last));
    // past the end of a head the query is 0 and the sum is not stored
    for (var l = 0u; l < LOADS; l++) { held[i][l] = raw_at(row, min(l * LANES + lane, PIECES - 1u)); }
  }
  return held;
}

// Sums over a team of four vectors; a lane has that of the vector which its highest two bits name.
fn sum_of_four(v: array<vec4<f32>, 4>, lane: u32) -> vec4<f32> {
  let upper = (lane & (LANES / 2u)) != 0u;
  let first = select(v[0], v[2], upper) + subgroupShuffleXor(select(v[2], v[0], upper), LANES / 2u);
  let second = select(v[1], v[3], upper) + subgroupShuffleXor(select(v[3], v[1], upper), LANES / 2u);
  let odd = (lane & (LANES / 4u)) != 0u;
  let sum = select(first, second, odd) + subgroupShuffleXor(select(second, first, odd), LANES / 4u);
  return over_lanes(sum, LANES / 8u);
}

// Sums over lanes whose numbers differ by powers of two up to `most`.
fn over_lanes(value: vec4<f32>, most: u32) -> vec4<f32> {
  var sum = value;
  if (most >= 16u) { sum += subgroupShuffleXor(sum, 16u); }
  if (most >= 8u) { sum += subgroupShuffleXor(sum, 8u); }
  if (most >= 4u) { sum += subgroupShuffleXor(sum, 4u); }
  if (most >= 2u) { sum += subgroupShuffleXor(sum, 2u); }
  if (most >= 1u) { sum += subgroupShuffleXor(sum, 1u); }
  return sum;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let kv_head = id.x / FOURS;
  let split = id.y;
  let token = id.z;
  let lane = thread % LANES;
  let team = thread / LANES;
  let mine = lane / (LANES / 4u) * TEAMS + team;  // the position of four times TEAMS whose scores end in this lane
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
  for (var start = first; start < limit; start += KEPT) {
    let count = min(KEPT, limit - start);
    let last = start + count - 1u;
    var ahead = held_at(keys, seen, start + team, last, lane);
    var key_scales: array<f32, SETS>;
    for (var s = 0u; s < SETS; s++) {
      key_scales[s] = scale_at(keys + slot_at(seen, min(start + s * 4u * TEAMS + mine, last)));
    }
    var value_scales: array<f32, SHARES>;
    for (var i = 0u; i < SHARES; i++) {
      value_scales[i] = scale_at(values + slot_at(seen, min(start + i * WORKGROUP + thread, last)));
    }
    var new_largest = vec4<f32>(NONE);
    for (var turn = 0u; turn < count; turn += TURN) {
      let loaded = ahead;
      let scales = key_scales;
      // the next keys, and behind the last ones the first values
      let more = turn + TURN < count;
      ahead = held_at(select(values, keys, more), seen, start + select(0u, turn + TURN, more) + team, last, lane);
      for (var s = 0u; s < SETS; s++) {
        let at = turn + s * 4u * TEAMS + mine;
        key_scales[s] = scale_at(keys + slot_at(seen, min(start + at + TURN, last)));
        var scores = array<vec4<f32>, 4>();
        for (var i = 0u; i < 4u; i++) {
          let key = quads_of(loaded[s * 4u + i]);
          for (var o = 0u; o < OWN; o++) {
            scores[i] += vec4<f32>(dot(query0[o], key[o]), dot(query1[o], key[o]), dot(query2[o], key[o]),
                                   dot(query3[o], key[o]));
          }
        }
        let score = capped4(sum_of_four(scores, lane) * scales[s]);
        if (at < count) {
          new_largest = max(new_largest, score);
          if (lane % (LANES / 4u) == 0u) { shared_quads[at] = score; }
        }
      }
    }
    new_largest = max(new_largest, subgroupShuffleXor(new_largest, LANES / 2u));
    new_largest = max(new_largest, subgroupShuffleXor(new_largest, LANES / 4u));
    if (lane == 0u) { team_largest[team] = new_largest; }
    workgroupBarrier();
    new_largest = largest;
    for (var t = 0u; t < TEAMS; t++) { new_largest = max(new_largest, team_largest[t]); }
    let correction = exp(largest - new_largest);
    largest = new_largest;
    total *= correction;
    for (var i = 0u; i < SHARES; i++) {
      let at = i * WORKGROUP + thread;
      if (at < count) {
        let weight = exp(shared_quads[at] - largest);
        total += weight;
        shared_quads[at] = weight * value_scales[i];
      }
    }
    workgroupBarrier();
    for (var o = 0u; o < OWN; o++) {
      sum0[o] *= correction.x;
      sum1[o] *= correction.y;
      sum2[o] *= correction.z;
      sum3[o] *= correction.w;
    }
    for (var turn = 0u; turn < count; turn += TURN) {
      let loaded = ahead;
      if (turn + TURN < count) { ahead = held_at(values, seen, start + turn + TURN + team, last, lane); }
      for (var i = 0u; i < POSITIONS; i++) {
        let at = turn + i * TEAMS + team;
        let weight = select(vec4<f32>(), shared_quads[min(at, count - 1u)], at < count);
        let value = quads_of(loaded[i]);
        for (var o = 0u; o < OWN; o++) {
          sum0[o] += weight.x * value[o];
          sum1[o] += weight.y * value[o];
          sum2[o] += weight.z * value[o];
          sum3[o] += weight.w * value[o];
        }
      }
    }
    workgroupBarrier();
  }
  total = over_lanes(total, LANES / 2u);
  if (lane == 0u) { team_total[team] = total; }
  for (var n = 0u; n < (min(4u, SHARING) + TOGETHER - 1u) / TOGETHER; n++) {
    let g = n * TOGETHER;
    for (var h = 0u; h < TOGETHER; h++) {
      for (var o = 0u; o < OWN; o++) {
        let quad = own_quad(o, lane);
        let sum = select(select(sum2[o], sum3[o], g + h == 3u), select(sum0[o], sum1[o], g + h == 1u), g + h < 2u);
        if (quad < QUADS) { shared_quads[(h * TEAMS + team) * QUADS + quad] = sum * PLACES; }
      }
    }
    workgroupBarrier();
    for (var turn = 0u; turn < (TOGETHER * QUADS + WORKGROUP - 1u) / WORKGROUP; turn++) {
      let i = turn * WORKGROUP + thread;
      if (i >= TOGETHER * QUADS) { break; }
      let h = i / QUADS;
      let quad = i % QUADS;
      let head = first_head + g + h;
      if (g + h < 4u && head < (kv_head + 1u) * SHARING) {
        var together = vec4<f32>();
        for (var t = 0u; t < TEAMS; t++) { together += shared_quads[(h * TEAMS + t) * QUADS + quad]; }
        let out = (token * HEADS + head) * SPLITS + split;
        sums[out * QUADS + quad] = together;
        if (quad == 0u) {
          var all_total = 0.0;
          for (var t = 0u; t < TEAMS; t++) { all_total += team_total[t][g + h]; }
          stats[out] = vec2<f32>(largest[g + h], all_total);
        }
      }
    }
    workgroupBarrier();
  }
}
