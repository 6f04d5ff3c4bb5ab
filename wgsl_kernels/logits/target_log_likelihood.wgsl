// Log-probability of one target a row: x[target] - max - log(sum(exp(x - max))); a workgroup takes one row, so that
// perplexity never reads a matrix of logits back. What is summed, and how, decides the last digits of a perplexity:
// lib/bins, lib/exp_log.
// needs: logits (LOWEST, checked, if_number), reduce (workgroup_max, workgroup_sum4), bins (RUN, in_bin, of_bins),
//   exp_log (exp_of, log_of)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

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
  for (var turn = 0u; turn < (TURNS + RUN - 1u) / RUN; turn++) {
    var run = vec4<f32>();
    for (var n = 0u; n < RUN; n++) {
      let i = (turn * RUN + n) * WORKGROUP + thread;
      if (i >= WIDTH) { break; }
      run += in_bin(exp_of(f32(x[start + i]) - largest));
    }
    sums += run;
  }
  let total = of_bins(workgroup_sum4(sums, thread));
  if (thread == 0u) {
    let target_logit = f32(x[start + min(targets[id.x], WIDTH - 1u)]);
    y[id.x] = if_number((target_logit - largest) - log_of(total), largest, id.x);
  }
}
