// What a comparison of two models keeps of two rows of logits: KL(baseline || x) and the change of the target's
// log-probability. A workgroup takes one row, so that no matrix of logits is read back.
//
// With d = ln p - ln q token by token, KL = sum p d is a small difference of large sums. So sum p (d - 1 + exp(-d)) is
// taken, which is the same, since the probabilities of both sum to 1: no number in it is below 0, and an error of the
// normalisers enters by its square. Near d = 0 the bracket is its series; beyond 1 p exp(-d) is q, so nothing overflows.
// needs: logits (LOWEST, checked, if_number), reduce (workgroup_max, workgroup_sum4), bins (RUN, in_bin, of_bins),
//   exp_log (exp_of, log_of, log_quotient)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read> baseline: array<baseline_type>;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(0) @binding(3) var<storage, read_write> kl: array<f32>;
@group(0) @binding(4) var<storage, read_write> change: array<f32>;

// (d - 1 + exp(-d)) / d^2 for |d| < 1; the series ends at a relative 6e-9.
fn bracket(d: f32) -> f32 {
  let end = 2.4801588e-5 - d * (2.7557319e-6 - d * (2.755732e-7 - d * (2.5052108e-8 - d * 2.0876757e-9)));
  return 0.5 - d * (0.16666667 - d * (0.041666668 - d * (8.3333338e-3 - d * (1.3888889e-3 - d * (1.984127e-4 - d * end)))));
}

const TURNS: u32 = (WIDTH + WORKGROUP - 1u) / WORKGROUP;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let start = id.x * WIDTH;
  var most = vec2<f32>(LOWEST);  // of x and of the baseline
  for (var turn = 0u; turn < TURNS; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= WIDTH) { break; }
    most = max(most, vec2<f32>(checked(f32(x[start + i])), checked(f32(baseline[start + i]))));
  }
  most = vec2<f32>(workgroup_max(most.x, thread), workgroup_max(most.y, thread));
  var sums_q = vec4<f32>();
  var sums_p = vec4<f32>();
  for (var turn = 0u; turn < (TURNS + RUN - 1u) / RUN; turn++) {
    var run_q = vec4<f32>();
    var run_p = vec4<f32>();
    for (var n = 0u; n < RUN; n++) {
      let i = (turn * RUN + n) * WORKGROUP + thread;
      if (i >= WIDTH) { break; }
      run_q += in_bin(exp_of(f32(x[start + i]) - most.x));
      run_p += in_bin(exp_of(f32(baseline[start + i]) - most.y));
    }
    sums_q += run_q;
    sums_p += run_p;
  }
  let all_q = workgroup_sum4(sums_q, thread);
  let all_p = workgroup_sum4(sums_p, thread);
  let total_q = of_bins(all_q);
  let total_p = of_bins(all_p);
  let ratio = total_p / total_q;
  // where the totals are close their difference is exacter than either, and than a quotient near 1
  let s = of_bins(all_p - all_q) / (total_p + total_q);
  let shift = (most.y - most.x) + select(log_of(ratio), log_quotient(s), abs(s) < 0.17);

  var sums = vec4<f32>();
  for (var turn = 0u; turn < (TURNS + RUN - 1u) / RUN; turn++) {
    var run = vec4<f32>();
    for (var n = 0u; n < RUN; n++) {
      let i = (turn * RUN + n) * WORKGROUP + thread;
      if (i >= WIDTH) { break; }
      let v = f32(x[start + i]);
      let b = f32(baseline[start + i]);
      let d = (b - v) - shift;
      let p = exp_of(b - most.y);
      let far = select(0.0, p * (d - 1.0), p > 0.0) + exp_of(v - most.x) * ratio;
      run += in_bin(select(far, p * (d * d) * bracket(d), abs(d) < 1.0));
    }
    sums += run;
  }
  let total = of_bins(workgroup_sum4(sums, thread));
  if (thread == 0u) {
    let place = start + min(targets[id.x], WIDTH - 1u);
    let largest = max(most.x, most.y);
    kl[id.x] = if_number(total / total_p, largest, id.x);
    change[id.x] = if_number((f32(x[place]) - f32(baseline[place])) + shift, largest, id.x);
  }
}
