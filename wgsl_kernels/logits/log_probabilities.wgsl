// Log-probabilities of K given tokens of each row, and the probability of all but the first COUNTED of these; a workgroup
// takes one row. What is left is summed, not subtracted from 1, so that little is as exact as much: tokens that do not
// count are marked in workgroup memory, a segment of the vocabulary at a time.
// needs: logits (LOWEST, checked, if_number), reduce (workgroup_max, workgroup_sum4), bins (RUN, in_bin, of_bins),
//   exp_log (exp_of, log_of)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> beyond: array<f32>;

const WORDS: u32 = 1024u;
const SEGMENT: u32 = 32u * WORDS;
var<workgroup> marks: array<atomic<u32>, WORDS>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let start = id.x * WIDTH;
  var largest = LOWEST;
  for (var i = thread; i < WIDTH; i += WORKGROUP) { largest = max(largest, checked(f32(x[start + i]))); }
  largest = workgroup_max(largest, thread);
  var sums = vec4<f32>();
  var sums_beyond = vec4<f32>();
  for (var segment = 0u; segment < WIDTH; segment += SEGMENT) {
    for (var i = thread; i < WORDS; i += WORKGROUP) { atomicStore(&marks[i], 0u); }
    workgroupBarrier();
    for (var i = thread; i < COUNTED; i += WORKGROUP) {
      let token = ids[id.x * K + i];
      if (token >= segment && token < segment + SEGMENT) {
        atomicOr(&marks[(token - segment) >> 5u], 1u << (token & 31u));
      }
    }
    workgroupBarrier();
    let end = min(segment + SEGMENT, WIDTH);
    for (var first = segment + thread; first < end; first += RUN * WORKGROUP) {
      var run = vec4<f32>();
      var run_beyond = vec4<f32>();
      for (var i = first; i < min(first + RUN * WORKGROUP, end); i += WORKGROUP) {
        let part = in_bin(exp_of(f32(x[start + i]) - largest));
        let marked = (atomicLoad(&marks[(i - segment) >> 5u]) & (1u << (i & 31u))) != 0u;
        run += part;
        run_beyond += select(part, vec4<f32>(), marked);
      }
      sums += run;
      sums_beyond += run_beyond;
    }
    workgroupBarrier();  // the marks may be written again at once
  }
  let total = of_bins(workgroup_sum4(sums, thread));
  let rest = of_bins(workgroup_sum4(sums_beyond, thread));
  let logarithm = log_of(total);
  for (var i = thread; i < K; i += WORKGROUP) {
    let token = min(ids[id.x * K + i], WIDTH - 1u);
    y[id.x * K + i] = if_number((f32(x[start + token]) - largest) - logarithm, largest, id.x);
  }
  if (thread == 0u) { beyond[id.x] = if_number(rest / total, largest, id.x); }
}
