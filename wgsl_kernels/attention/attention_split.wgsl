// Decode attention over a part of the cache: a workgroup takes one split of one head of keys and values, for up to four
// of the query heads that share it, so that the cache is read, and its bytes are made floats, once.
//
// LANES threads, a team, take POSITIONS positions together, a piece of each side by side, and go over their share of the
// split by themselves, with a softmax that runs online: keys and values of the same positions are on their way together,
// and the next ones as soon as these are used. A workgroup has few others to hide its loads behind, and drivers put off
// loads until registers are free. What a split leaves is not normalised: sums of values weighted by
// exp(score - largest), the largest score, and the sum of weights; `attention_reduce` puts the splits together
// (flash-decoding, Dao et al. 2023).
//
// Which query a component of a vector is of depends on the lane: the j-th is query j ^ (lane % 4). So lanes that add up a
// score hand on the same components, and none has to be chosen: three exchanges a position in place of eight. A lane ends
// with the scores of query lane % 4 and computes their exponentials, each of which three more exchanges take to the lanes
// beside it.
//
// Every index in the loops is a constant: drivers keep what they cannot unroll in memory, which made this kernel half as
// fast (H200).
// needs: state (Rows), cache (PIECES, Raw, raw_at, piece_of, scale_at, PIECE, to_places, from_places, SCALED),
//   seen (Seen, seen_by, slot_at), queries (QUERIES, query_for), scores (capped)
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
const TURN: u32 = POSITIONS * TEAMS;               // positions that a workgroup reads at a time
const OTHERS: u32 = SPLITS - (QUERIES - 1u);       // sinks with a query of their own are a split of their own, the first
const TOGETHER: u32 = select(1u, 2u, TEAMS * QUADS <= 256u);  // vectors of a thread that are added up at a time
const NONE: f32 = -0x1p127f;   // largest score of a part without positions; below LOWEST
const LOWEST: f32 = -0x1p126f;  // below every score
alias Loaded = array<Raw, LOADS>;
alias Held = array<Loaded, POSITIONS>;
alias Quads = array<vec4<f32>, OWN>;
alias Scales = array<f32, POSITIONS / 4u>;
// Queries: [own quad][dimension][lane]. At the end, sums of values by vector, team and quad.
var<workgroup> shared_quads: array<vec4<f32>, max(4u * OWN * LANES, TOGETHER * TEAMS * QUADS)>;
var<workgroup> team_largest: array<f32, 4u * TEAMS>;  // by team and query
var<workgroup> team_total: array<f32, 4u * TEAMS>;

fn own_quad(o: u32, lane: u32) -> u32 { return (o / PIECE * LANES + lane) * PIECE + o % PIECE; }

fn query_at(sinks: bool, token: u32, head: u32, quad: u32) -> vec4<f32> {
  let at = (token * HEADS + min(head, HEADS - 1u)) * QUADS + quad;
  return to_places(vec4<f32>(query_for(sinks, at)) * SCALE);
}

fn quads_of(loaded: Loaded) -> Quads {
  var quads: Quads;
  for (var l = 0u; l < LOADS; l++) {
    let piece = piece_of(loaded[l]);
    for (var i = 0u; i < PIECE; i++) { quads[l * PIECE + i] = piece[i]; }
  }
  return quads;
}

// POSITIONS from `first` on, as `seen` counts; behind `last` that one again, since 0 times what lies there, which may be
// infinite, is no number.
fn held_at(plane: u32, seen: Seen, first: u32, last: u32, lane: u32) -> Held {
  var held: Held;
  for (var i = 0u; i < POSITIONS; i++) {
    let row = plane + slot_at(seen, min(first + i, last));
    // past the end of a head the query is 0 and the sum is not stored
    for (var l = 0u; l < LOADS; l++) { held[i][l] = raw_at(row, min(l * LANES + lane, PIECES - 1u)); }
  }
  return held;
}

// Scales of positions, as `held_at` takes them: of every fourth one from lane % 4 on.
fn scales_at(plane: u32, seen: Seen, first: u32, last: u32, lane: u32) -> Scales {
  var found: Scales;
  if (SCALED) {
    for (var i = 0u; i < POSITIONS / 4u; i++) {
      found[i] = scale_at(plane + slot_at(seen, min(first + i * 4u + lane % 4u, last)));
    }
  }
  return found;
}

// Scores of query lane % 4, before their scales.
fn scores_of(held: Held, lane: u32) -> array<f32, POSITIONS> {
  var products = array<vec4<f32>, POSITIONS>();
  for (var o = 0u; o < OWN; o++) {
    let at = o * 4u * LANES + lane;
    let query0 = shared_quads[at];
    let query1 = shared_quads[at + LANES];
    let query2 = shared_quads[at + 2u * LANES];
    let query3 = shared_quads[at + 3u * LANES];
    for (var i = 0u; i < POSITIONS; i++) {
      let keys = quads_of(held[i]);
      let key = keys[o];
      products[i] += query0 * key.x;
      products[i] += query1 * key.y;
      products[i] += query2 * key.z;
      products[i] += query3 * key.w;
    }
  }
  var scores: array<f32, POSITIONS>;
  for (var i = 0u; i < POSITIONS; i++) {
    let two = products[i].xy + subgroupShuffleXor(products[i].zw, 2u);
    var score = two.x + subgroupShuffleXor(two.y, 1u);
    if (LANES >= 8u) { score += subgroupShuffleXor(score, 4u); }
    if (LANES >= 16u) { score += subgroupShuffleXor(score, 8u); }
    scores[i] = score;
  }
  return scores;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32,
        @builtin(subgroup_invocation_id) place: u32) {
  let kv_head = id.x / FOURS;
  let split = id.y;
  let token = id.z;
  let lane = thread % LANES;
  let team = thread / LANES;
  let row = state[token];
  let first_head = kv_head * SHARING + (id.x % FOURS) * 4u;
  let heads = min(4u, SHARING - (id.x % FOURS) * 4u);
  let out = (token * HEADS + first_head) * SPLITS + split;
  let keys = ((row.sequence * 2u) * KV_HEADS + kv_head) * CAPACITY;
  let values = keys + KV_HEADS * CAPACITY;
  let seen = seen_by(row.position);
  let of_sinks = QUERIES > 1u && split == 0u;
  let apart = select(0u, min(SINKS, seen.count), QUERIES > 1u);
  let length = max((seen.count - apart + OTHERS - 1u) / OTHERS, LEAST);
  let first = select(min(apart + (split - (QUERIES - 1u)) * length, seen.count), 0u, of_sinks);
  let limit = select(min(first + length, seen.count), apart, of_sinks);
  if (first >= limit) {
    for (var turn = 0u; turn < (4u * QUADS + WORKGROUP - 1u) / WORKGROUP; turn++) {
      let i = turn * WORKGROUP + thread;
      if (i < heads * QUADS) { sums[(out + i / QUADS * SPLITS) * QUADS + i % QUADS] = vec4<f32>(); }
    }
    if (thread < heads) { stats[out + thread * SPLITS] = vec2<f32>(NONE, 0.0); }
    return;
  }

  let last = limit - 1u;
  let turns = (limit - first + TURN - 1u) / TURN;
  var here = first + team * POSITIONS;
  var held_keys = held_at(keys, seen, here, last, lane);
  var held_values = held_at(values, seen, here, last, lane);
  var key_scales = scales_at(keys, seen, here, last, lane);
  var value_scales = scales_at(values, seen, here, last, lane);
  for (var turn = 0u; turn < (OWN * LANES + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let each = turn * WORKGROUP + thread;
    if (each < OWN * LANES) {
      let quad = own_quad(each / LANES, each % LANES);
      let turned = each % 4u;
      var columns = mat4x4<f32>();
      if (quad < QUADS) {
        columns = transpose(mat4x4<f32>(query_at(of_sinks, token, first_head + turned, quad),
                                        query_at(of_sinks, token, first_head + (1u ^ turned), quad),
                                        query_at(of_sinks, token, first_head + (2u ^ turned), quad),
                                        query_at(of_sinks, token, first_head + (3u ^ turned), quad)));
      }
      let at = each / LANES * 4u * LANES + each % LANES;
      shared_quads[at] = columns[0];
      shared_quads[at + LANES] = columns[1];
      shared_quads[at + 2u * LANES] = columns[2];
      shared_quads[at + 3u * LANES] = columns[3];
    }
  }
  workgroupBarrier();

  var largest = LOWEST;  // of query lane % 4, and the sum of its weights
  var total = 0.0;
  var sum0 = Quads();
  var sum1 = Quads();
  var sum2 = Quads();
  var sum3 = Quads();
  for (var turn = 0u; turn < turns; turn++) {
    let more = turn + 1u < turns;
    var scores = scores_of(held_keys, lane);
    if (SCALED) {
      for (var i = 0u; i < POSITIONS; i++) {
        scores[i] *= subgroupShuffle(key_scales[i / 4u], (place & ~3u) + i % 4u);
      }
    }
    if (more) {
      held_keys = held_at(keys, seen, here + TURN, last, lane);
      key_scales = scales_at(keys, seen, here + TURN, last, lane);
    }
    var new_largest = largest;
    for (var i = 0u; i < POSITIONS; i++) {
      scores[i] = select(NONE, capped(scores[i]), here + i <= last);
      new_largest = max(new_largest, scores[i]);
    }
    let correction = exp(largest - new_largest);
    let correction1 = subgroupShuffleXor(correction, 1u);
    let correction2 = subgroupShuffleXor(correction, 2u);
    let correction3 = subgroupShuffleXor(correction, 3u);
    largest = new_largest;
    total *= correction;
    for (var o = 0u; o < OWN; o++) {
      sum0[o] *= correction;
      sum1[o] *= correction1;
      sum2[o] *= correction2;
      sum3[o] *= correction3;
    }
    for (var i = 0u; i < POSITIONS; i++) {
      var weight = exp(scores[i] - largest);
      total += weight;
      if (SCALED) { weight *= subgroupShuffle(value_scales[i / 4u], (place & ~3u) + i % 4u); }
      let weight1 = subgroupShuffleXor(weight, 1u);
      let weight2 = subgroupShuffleXor(weight, 2u);
      let weight3 = subgroupShuffleXor(weight, 3u);
      let value = quads_of(held_values[i]);
      for (var o = 0u; o < OWN; o++) {
        sum0[o] += weight * value[o];
        sum1[o] += weight1 * value[o];
        sum2[o] += weight2 * value[o];
        sum3[o] += weight3 * value[o];
      }
    }
    if (more) {
      held_values = held_at(values, seen, here + TURN, last, lane);
      value_scales = scales_at(values, seen, here + TURN, last, lane);
    }
    here += TURN;
  }

  if (lane < 4u) { team_largest[team * 4u + lane] = largest; }
  workgroupBarrier();
  var of_all = largest;
  for (var t = 0u; t < TEAMS; t++) { of_all = max(of_all, team_largest[t * 4u + lane % 4u]); }
  let correction = exp(largest - of_all);
  let correction1 = subgroupShuffleXor(correction, 1u);
  let correction2 = subgroupShuffleXor(correction, 2u);
  let correction3 = subgroupShuffleXor(correction, 3u);
  if (lane < 4u) { team_total[team * 4u + lane] = total * correction; }
  for (var o = 0u; o < OWN; o++) {
    sum0[o] *= correction;
    sum1[o] *= correction1;
    sum2[o] *= correction2;
    sum3[o] *= correction3;
  }
  for (var n = 0u; n < 4u / TOGETHER; n++) {
    let g = n * TOGETHER;
    for (var h = 0u; h < TOGETHER; h++) {
      for (var o = 0u; o < OWN; o++) {
        let quad = own_quad(o, lane);
        let sum = select(select(sum2[o], sum3[o], g + h == 3u), select(sum0[o], sum1[o], g + h == 1u), g + h < 2u);
        if (quad < QUADS) { shared_quads[(h * TEAMS + team) * QUADS + quad] = sum; }
      }
    }
    workgroupBarrier();
    for (var turn = 0u; turn < (TOGETHER * QUADS + WORKGROUP - 1u) / WORKGROUP; turn++) {
      let i = turn * WORKGROUP + thread;
      let quad = i % QUADS;
      let head = (g + i / QUADS) ^ (quad / PIECE % LANES % 4u);
      if (i < TOGETHER * QUADS && head < heads) {
        var together = vec4<f32>();
        for (var t = 0u; t < TEAMS; t++) { together += shared_quads[(i / QUADS * TEAMS + t) * QUADS + quad]; }
        sums[(out + head * SPLITS) * QUADS + quad] = from_places(together);
      }
    }
    workgroupBarrier();
  }
  if (thread < heads) {
    var all_total = 0.0;
    for (var t = 0u; t < TEAMS; t++) { all_total += team_total[t * 4u + thread]; }
    stats[out + thread * SPLITS] = vec2<f32>(of_all, all_total);
  }
}
