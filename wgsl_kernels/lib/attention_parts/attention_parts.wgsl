// provides: THREADS, QUADS, lane_sums, reduce_parts
// needs: caller (stats, sums)
// The parts of `attention_split` put together: y = sum_s e_s sums_s / sum_s e_s total_s, e_s = exp(largest_s - largest).
//
// A workgroup takes one head. Its threads share the parts: LANES of them add up every LANES-th part of the same four
// dimensions and meet in workgroup memory. One thread for all parts waited for each of them (8 us for 20, H100). Sums are
// on their way while the weights of parts are computed, each by one thread.
const THREADS: u32 = 256u;
const QUADS: u32 = HEAD_DIM / 4u;
const TURNS: u32 = (SPLITS + THREADS - 1u) / THREADS;  // of parts for each thread
const LANES: u32 = max(1u, THREADS / QUADS);
const EACH: u32 = (SPLITS + LANES - 1u) / LANES;  // parts that a thread adds up
const AHEAD: u32 = min(EACH, 16u);                // and that it loads before it knows their weights
var<workgroup> part_stats: array<vec2<f32>, SPLITS>;          // largest and total
var<workgroup> part_weights: array<f32, SPLITS>;
var<workgroup> lane_totals: array<f32, LANES>;
var<workgroup> lane_sums: array<vec4<f32>, LANES * QUADS>;

// Leaves four dimensions each in `lane_sums[0 .. QUADS]`, after a barrier.
fn reduce_parts(head: u32, thread: u32) {
  for (var turn = 0u; turn < TURNS; turn++) {
    let s = turn * THREADS + thread;
    if (s < SPLITS) { part_stats[s] = stats[head * SPLITS + s]; }
  }
  let lane = thread / QUADS;
  let quad = thread % QUADS;
  var loaded: array<vec4<f32>, AHEAD>;
  for (var i = 0u; i < AHEAD; i++) {
    loaded[i] = sums[(head * SPLITS + min(i * LANES + lane, SPLITS - 1u)) * QUADS + quad];
  }
  workgroupBarrier();
  var largest = part_stats[0].x;
  for (var s = 1u; s < SPLITS; s++) { largest = max(largest, part_stats[s].x); }
  for (var turn = 0u; turn < TURNS; turn++) {
    let s = turn * THREADS + thread;
    if (s < SPLITS) { part_weights[s] = exp(part_stats[s].x - largest); }
  }
  workgroupBarrier();
  var sum = vec4<f32>();
  var total = 0.0;
  for (var i = 0u; i < EACH; i++) {
    let s = i * LANES + lane;
    if (s < SPLITS) {
      let weight = part_weights[s];
      total += weight * part_stats[s].y;
      if (i < AHEAD) { sum += weight * loaded[i]; } else { sum += weight * sums[(head * SPLITS + s) * QUADS + quad]; }
    }
  }
  if (lane < LANES) {
    lane_sums[thread] = sum;
    if (quad == 0u) { lane_totals[lane] = total; }
  }
  workgroupBarrier();
  if (thread < QUADS) {
    var all = vec4<f32>();
    var all_total = 0.0;
    for (var i = 0u; i < LANES; i++) {
      all += lane_sums[i * QUADS + thread];
      all_total += lane_totals[i];
    }
    lane_sums[thread] = all / all_total;
  }
  workgroupBarrier();
}
