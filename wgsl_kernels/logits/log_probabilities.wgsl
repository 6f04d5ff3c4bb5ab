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

const TURNS: u32 = (WIDTH + WORKGROUP - 1u) / WORKGROUP;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let start = id.x * WIDTH;
  var largest = LOWEST;
  for (var turn = 0u; turn < TURNS; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= WIDTH) { break; }
    largest = max(largest, checked(f32(x[start + i])));
  }
  largest = workgroup_max(largest, thread);
  var sums = vec4<f32>();
  var sums_beyond = vec4<f32>();
  for (var part = 0u; part < (WIDTH + SEGMENT - 1u) / SEGMENT; part++) {
    let segment = part * SEGMENT;
    for (var turn = 0u; turn < WORDS / WORKGROUP; turn++) { atomicStore(&marks[turn * WORKGROUP + thread], 0u); }
    workgroupBarrier();
    for (var turn = 0u; turn < (COUNTED + WORKGROUP - 1u) / WORKGROUP; turn++) {
      let i = turn * WORKGROUP + thread;
      if (i >= COUNTED) { break; }
      let token = ids[id.x * K + i];
      if (token >= segment && token < segment + SEGMENT) {
        atomicOr(&marks[(token - segment) >> 5u], 1u << (token & 31u));
      }
    }
    workgroupBarrier();
    let end = min(segment + SEGMENT, WIDTH);
    for (var turn = 0u; turn < (SEGMENT + RUN * WORKGROUP - 1u) / (RUN * WORKGROUP); turn++) {
      var run = vec4<f32>();
      var run_beyond = vec4<f32>();
      for (var n = 0u; n < RUN; n++) {
        let i = segment + (turn * RUN + n) * WORKGROUP + thread;
        if (i >= end) { break; }
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
  for (var turn = 0u; turn < (K + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= K) { break; }
    let token = min(ids[id.x * K + i], WIDTH - 1u);
    y[id.x * K + i] = if_number((f32(x[start + token]) - largest) - logarithm, largest, id.x);
  }
  if (thread == 0u) { beyond[id.x] = if_number(rest / total, largest, id.x); }
}
