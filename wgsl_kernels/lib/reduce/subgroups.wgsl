// provides: workgroup_sum4, workgroup_max, workgroup_sum
// Sums and maxima over a workgroup: first over each subgroup, then over one value a subgroup.
// The subgroup's size is read by adding ones, because only entry points can take it as an argument.
var<workgroup> reduce_scratch: array<vec4<f32>, WORKGROUP>;

fn workgroup_sum4(value: vec4<f32>, thread: u32) -> vec4<f32> {
  let lanes = subgroupAdd(1u);
  let partial = subgroupAdd(value);
  if (subgroupExclusiveAdd(1u) == 0u) { reduce_scratch[thread / lanes] = partial; }
  workgroupBarrier();
  var total = vec4<f32>();
  for (var i = 0u; i < WORKGROUP / lanes; i++) { total += reduce_scratch[i]; }
  workgroupBarrier();  // the scratch may be written again at once
  return total;
}

fn workgroup_max(value: f32, thread: u32) -> f32 {
  let lanes = subgroupAdd(1u);
  let partial = subgroupMax(value);
  if (subgroupExclusiveAdd(1u) == 0u) { reduce_scratch[thread / lanes] = vec4<f32>(partial); }
  workgroupBarrier();
  var largest = reduce_scratch[0].x;
  for (var i = 1u; i < WORKGROUP / lanes; i++) { largest = max(largest, reduce_scratch[i].x); }
  workgroupBarrier();
  return largest;
}

fn workgroup_sum(value: f32, thread: u32) -> f32 {
  return workgroup_sum4(vec4<f32>(value, 0.0, 0.0, 0.0), thread).x;
}
