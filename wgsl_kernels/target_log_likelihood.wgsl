// Log-probability of one target a row: x[target] - max - log(sum(exp(x - max))); a workgroup takes one row, so that
// perplexity never reads a matrix of logits back.
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let start = id.x * WIDTH;
  var largest = -3.4028234e38;  // the lowest f32, which masks write
  for (var i = thread; i < WIDTH; i += WORKGROUP) { largest = max(largest, f32(x[start + i])); }
  largest = workgroup_max(largest, thread);
  var total = 0.0;
  for (var i = thread; i < WIDTH; i += WORKGROUP) { total += exp(f32(x[start + i]) - largest); }
  total = workgroup_sum(total, thread);
  if (thread == 0u) {
    let target_logit = f32(x[start + min(targets[id.x], WIDTH - 1u)]);
    y[id.x] = (target_logit - largest) - log(total);
  }
}
