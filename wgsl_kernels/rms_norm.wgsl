// y = x / sqrt(mean(x^2) + eps) * weight; a workgroup normalises one row.
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<y_type>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let start = id.x * HIDDEN;
  var squares = 0.0;
  for (var i = thread; i < HIDDEN; i += WORKGROUP) {
    let v = f32(x[start + i]);
    squares += v * v;
  }
  let mean = workgroup_sum(squares, thread) / f32(HIDDEN);
  let factor = 1.0 / sqrt(mean + EPS);
  for (var i = thread; i < HIDDEN; i += WORKGROUP) {
    y[start + i] = y_type(f32(x[start + i]) * factor * weight[i]);
  }
}
