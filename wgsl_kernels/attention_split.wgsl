// Decode attention over a part of the cache: a workgroup takes one split of one head of keys and values, for all the
// query heads that share it, so that the cache is read once.
//
// LANES threads read one position together, 16 bytes each side by side, and keep a softmax of their own over every
// TEAMS-th position (online, Milakov and Gimelshein 2018): no barrier in the loop, many loads in flight. The teams
// meet at the end. What a split leaves is not normalised: sums of values weighted by exp(score - largest), the largest
// score, and the sum of weights; `attention_reduce` puts the splits together (flash-decoding, Dao et al. 2023).
@group(0) @binding(0) var<storage, read> q: array<vec4<q_type>>;
@group(0) @binding(1) var<storage, read> kv: array<vec4<kv_type>>;
@group(0) @binding(2) var<uniform> state: State;
@group(0) @binding(3) var<storage, read_write> sums: array<vec4<f32>>;   // [token][head][split][quad]
@group(0) @binding(4) var<storage, read_write> stats: array<vec2<f32>>;  // [token][head][split]: largest, total

const QUADS: u32 = HEAD_DIM / 4u;
const SHARING: u32 = HEADS / KV_HEADS;           // query heads of one head of keys
const OWN: u32 = (QUADS + LANES - 1u) / LANES;   // quads of a position that a thread owns
const TEAMS: u32 = WORKGROUP / LANES;
const NONE: f32 = -0x1p127f;  // below every score
var<workgroup> team_stats: array<vec2<f32>, TEAMS * SHARING>;
var<workgroup> team_sums: array<vec4<f32>, TEAMS * QUADS>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let kv_head = id.x;
  let split = id.y;
  let token = id.z;
  let lane = thread % LANES;
  let team = thread / LANES;
  let keys = ((state.sequence * 2u) * KV_HEADS + kv_head) * CAPACITY;
  let values = keys + KV_HEADS * CAPACITY;
  let count = min(state.position + token + 1u, CAPACITY);  // positions this token sees
  let chunk = max((count + SPLITS - 1u) / SPLITS, LEAST);
  let first = min(split * chunk, count);
  let limit = min(first + chunk, count);

  var query: array<vec4<f32>, SHARING * OWN>;
  var sum: array<vec4<f32>, SHARING * OWN>;
  var largest: array<f32, SHARING>;
  var total: array<f32, SHARING>;
  for (var g = 0u; g < SHARING; g++) {
    largest[g] = NONE;
    for (var o = 0u; o < OWN; o++) {
      let quad = o * LANES + lane;
      if (quad < QUADS) {
        query[g * OWN + o] = vec4<f32>(q[token * WIDTH / 4u + (kv_head * SHARING + g) * QUADS + quad]) * SCALE;
      }
    }
  }
  for (var start = first; start < limit; start += TEAMS) {
    let position = start + team;
    let at = min(position, CAPACITY - 1u) * QUADS;
    var key: array<vec4<f32>, OWN>;
    var value: array<vec4<f32>, OWN>;
    for (var o = 0u; o < OWN; o++) {
      let quad = min(o * LANES + lane, QUADS - 1u);  // past the end: the query is 0, the sum is not stored
      key[o] = vec4<f32>(kv[keys * QUADS + at + quad]);
      value[o] = vec4<f32>(kv[values * QUADS + at + quad]);
    }
    for (var g = 0u; g < SHARING; g++) {
      var score = 0.0;
      for (var o = 0u; o < OWN; o++) { score += dot(query[g * OWN + o], key[o]); }
      for (var width = LANES / 2u; width > 0u; width >>= 1u) { score += subgroupShuffleXor(score, width); }
      score = select(NONE, score, position < limit);
      let new_largest = max(largest[g], score);
      let correction = exp(largest[g] - new_largest);
      let weight = select(0.0, exp(score - new_largest), position < limit);
      largest[g] = new_largest;
      total[g] = total[g] * correction + weight;
      for (var o = 0u; o < OWN; o++) { sum[g * OWN + o] = sum[g * OWN + o] * correction + weight * value[o]; }
    }
  }
  if (lane == 0u) {
    for (var g = 0u; g < SHARING; g++) { team_stats[g * TEAMS + team] = vec2<f32>(largest[g], total[g]); }
  }
  workgroupBarrier();
  for (var g = 0u; g < SHARING; g++) {
    var all = vec2<f32>(NONE, 0.0);
    for (var t = 0u; t < TEAMS; t++) { all.x = max(all.x, team_stats[g * TEAMS + t].x); }
    for (var t = 0u; t < TEAMS; t++) {
      all.y += team_stats[g * TEAMS + t].y * exp(team_stats[g * TEAMS + t].x - all.x);
    }
    let factor = exp(largest[g] - all.x);
    for (var o = 0u; o < OWN; o++) {
      let quad = o * LANES + lane;
      if (quad < QUADS) { team_sums[team * QUADS + quad] = sum[g * OWN + o] * factor; }
    }
    workgroupBarrier();
    let out = (token * HEADS + kv_head * SHARING + g) * SPLITS + split;
    for (var quad = thread; quad < QUADS; quad += WORKGROUP) {
      var together = vec4<f32>();
      for (var t = 0u; t < TEAMS; t++) { together += team_sums[t * QUADS + quad]; }
      sums[out * QUADS + quad] = together;
    }
    if (thread == 0u) { stats[out] = all; }
    workgroupBarrier();
  }
}
