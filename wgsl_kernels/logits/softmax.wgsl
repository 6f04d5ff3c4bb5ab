// Softmax of each row; a workgroup takes one row.
// needs: logits (LOWEST, checked, if_number), reduce (workgroup_max, workgroup_sum4), bins (RUN, in_bin, of_bins),
//   exp_log (exp_of)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read_write> y: array<y_type>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let start = id.x * WIDTH;
  var largest = LOWEST;
  for (var i = thread; i < WIDTH; i += WORKGROUP) { largest = max(largest, checked(f32(x[start + i]))); }
  largest = workgroup_max(largest, thread);
  var sums = vec4<f32>();
  for (var first = thread; first < WIDTH; first += RUN * WORKGROUP) {
    var run = vec4<f32>();
    for (var i = first; i < min(first + RUN * WORKGROUP, WIDTH); i += WORKGROUP) {
      run += in_bin(exp_of(f32(x[start + i]) - largest));
    }
    sums += run;
  }
  let total = if_number(of_bins(workgroup_sum4(sums, thread)), largest, id.x);
  for (var i = thread; i < WIDTH; i += WORKGROUP) { y[start + i] = y_type(exp_of(f32(x[start + i]) - largest) / total); }
}
