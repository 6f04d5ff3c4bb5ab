// provides: THREADS, QUADS, lane_sums, reduce_parts
// needs: caller (stats, sums)
// The parts of `attention_split` put together: y = sum_s e_s sums_s / sum_s e_s total_s, e_s = exp(largest_s - largest).
//
// A workgroup takes one head. Its threads share the parts: LANES of them add up every LANES-th part of the same four
// dimensions and meet in workgroup memory. One thread for all parts waited for each of them (8 us for 20, H100).
const THREADS: u32 = 256u;
const QUADS: u32 = HEAD_DIM / 4u;
const LANES: u32 = max(1u, THREADS / QUADS);
var<workgroup> part_stats: array<vec2<f32>, SPLITS>;          // largest and total, then weight and weighted total
var<workgroup> lane_sums: array<vec4<f32>, LANES * QUADS>;

// Leaves four dimensions each in `lane_sums[0 .. QUADS]`, after a barrier.
fn reduce_parts(head: u32, thread: u32) {
  for (var s = thread; s < SPLITS; s += THREADS) { part_stats[s] = stats[head * SPLITS + s]; }
  workgroupBarrier();
  var largest = part_stats[0].x;
  for (var s = 1u; s < SPLITS; s++) { largest = max(largest, part_stats[s].x); }
  for (var i = thread; i < LANES * QUADS; i += THREADS) {
    let quad = i % QUADS;
    var sum = vec4<f32>();
    for (var s = i / QUADS; s < SPLITS; s += LANES) {
      sum += exp(part_stats[s].x - largest) * sums[(head * SPLITS + s) * QUADS + quad];
    }
    lane_sums[i] = sum;
  }
  workgroupBarrier();
  for (var quad = thread; quad < QUADS; quad += THREADS) {
    var total = 0.0;
    for (var s = 0u; s < SPLITS; s++) { total += exp(part_stats[s].x - largest) * part_stats[s].y; }
    var sum = vec4<f32>();
    for (var lane = 0u; lane < LANES; lane++) { sum += lane_sums[lane * QUADS + quad]; }
    lane_sums[quad] = sum / total;
  }
  workgroupBarrier();
}
