// provides: workgroup_sum4, workgroup_max, workgroup_sum
// Sums and maxima over a workgroup by a tree in workgroup memory; WORKGROUP is a power of two.
const HALVINGS: u32 = countTrailingZeros(WORKGROUP);
var<workgroup> reduce_scratch: array<vec4<f32>, WORKGROUP>;

fn workgroup_sum4(value: vec4<f32>, thread: u32) -> vec4<f32> {
  reduce_scratch[thread] = value;
  workgroupBarrier();
  for (var n = 1u; n <= HALVINGS; n++) {
    let width = WORKGROUP >> n;
    if (thread < width) { reduce_scratch[thread] += reduce_scratch[thread + width]; }
    workgroupBarrier();
  }
  let total = reduce_scratch[0];
  workgroupBarrier();  // the scratch may be written again at once
  return total;
}

fn workgroup_max(value: f32, thread: u32) -> f32 {
  reduce_scratch[thread] = vec4<f32>(value);
  workgroupBarrier();
  for (var n = 1u; n <= HALVINGS; n++) {
    let width = WORKGROUP >> n;
    if (thread < width) { reduce_scratch[thread] = max(reduce_scratch[thread], reduce_scratch[thread + width]); }
    workgroupBarrier();
  }
  let largest = reduce_scratch[0].x;
  workgroupBarrier();
  return largest;
}

fn workgroup_sum(value: f32, thread: u32) -> f32 {
  return workgroup_sum4(vec4<f32>(value, 0.0, 0.0, 0.0), thread).x;
}
