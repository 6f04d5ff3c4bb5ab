// y = x / sqrt(mean(x^2) + eps) * weight; a workgroup normalises one row. Squares are summed in short runs: behind one of
// the very large numbers that models have, a long sum would lose the others.
// needs: reduce (workgroup_sum)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<y_type>;

const RUN: u32 = 32u;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let start = id.x * HIDDEN;
  var squares = 0.0;
  for (var first = thread; first < HIDDEN; first += RUN * WORKGROUP) {
    var run = 0.0;
    for (var i = first; i < min(first + RUN * WORKGROUP, HIDDEN); i += WORKGROUP) {
      let v = f32(x[start + i]);
      run += v * v;
    }
    squares += run;
  }
  let mean = workgroup_sum(squares, thread) / f32(HIDDEN);
  let factor = 1.0 / sqrt(mean + EPS);
  for (var i = thread; i < HIDDEN; i += WORKGROUP) {
    y[start + i] = y_type(f32(x[start + i]) * factor * weight[i]);
  }
}
