// The K largest logits of a router and their scores, a workgroup for each token. A knockout as in top_k.wgsl, where every
// thread holds its logits: routers are narrow.
// needs: reduce (workgroup_max, workgroup_sum)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read_write> experts: array<u32>;
@group(0) @binding(2) var<storage, read_write> scores: array<f32>;

const LOWEST: f32 = -3.4028234e38;
const NOWHERE: f32 = 16777216.0;  // places are exact in f32 below 2^24
const HELD: u32 = (WIDTH + WORKGROUP - 1u) / WORKGROUP;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = id.x * WIDTH;
  var held: array<f32, HELD>;
  for (var i = 0u; i < HELD; i++) {
    let at = i * WORKGROUP + thread;
    held[i] = LOWEST;
    if (at < WIDTH) { held[i] = f32(x[row + at]); }
  }
  var taken: array<bool, HELD>;
  var largest = 0.0;  // of all logits
  var sum = 0.0;      // of the scores of the chosen
  var mine: array<f32, K>;
  for (var round = 0u; round < K; round++) {
    var best = LOWEST;
    var place = NOWHERE;
    for (var i = 0u; i < HELD; i++) {
      if (!taken[i] && held[i] > best) {
        best = held[i];
        place = f32(i * WORKGROUP + thread);
      }
    }
    let most = workgroup_max(best, thread);
    let first = workgroup_max(select(-NOWHERE, -place, best == most), thread);
    // where no logit is a number, any expert will do: its score is none either
    let winner = min(u32(-first), WIDTH - 1u);
    if (winner % WORKGROUP == thread) { taken[winner / WORKGROUP] = true; }
    let v = f32(x[row + winner]);
    if (round == 0u) { largest = v; }
    mine[round] = select(exp(v - largest), 1.0 / (1.0 + exp(-v)), SIGMOID);
    sum += mine[round];
    if (thread == 0u) { experts[id.x * K + round] = winner; }
  }
  if (!SIGMOID && !NORMALISED) {
    var all = 0.0;
    for (var i = 0u; i < HELD; i++) {
      if (i * WORKGROUP + thread < WIDTH) { all += exp(held[i] - largest); }
    }
    sum = workgroup_sum(all, thread);
  }
  if (thread == 0u) {
    for (var round = 0u; round < K; round++) {
      scores[id.x * K + round] = mine[round] / select(1.0, sum, NORMALISED || !SIGMOID);
    }
  }
}
