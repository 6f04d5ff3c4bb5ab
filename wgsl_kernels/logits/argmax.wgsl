// Index of the largest number of each row, the first one of equals; a workgroup takes one row.
// needs: reduce (workgroup_max)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read_write> index: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let start = id.x * WIDTH;
  var mine = -3.4028234e38;  // the lowest f32
  var first = 0u;
  for (var turn = 0u; turn < (WIDTH + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= WIDTH) { break; }
    let v = f32(x[start + i]);
    if (v > mine) { mine = v; first = i; }
  }
  let largest = workgroup_max(mine, thread);
  // negated indices, exact in f32 below 2^24
  let candidate = select(-16777216.0, -f32(first), mine == largest);
  let found = u32(-workgroup_max(candidate, thread));
  if (thread == 0u) { index[id.x] = found; }
}
