// provides: workgroup_sum4, workgroup_max, workgroup_sum
// Sums and maxima where the workgroup is exactly one subgroup: no workgroup memory, no barrier.
fn workgroup_sum4(value: vec4<f32>, thread: u32) -> vec4<f32> { return subgroupAdd(value); }
fn workgroup_max(value: f32, thread: u32) -> f32 { return subgroupMax(value); }
fn workgroup_sum(value: f32, thread: u32) -> f32 { return subgroupAdd(value); }
