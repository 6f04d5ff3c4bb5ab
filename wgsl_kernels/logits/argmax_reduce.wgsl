// Of groups' largest numbers the largest, and the index that stands beside it; of equals that of the first group. A
// workgroup takes one row.
// needs: reduce (workgroup_max)
@group(0) @binding(0) var<storage, read> largest: array<f32>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> best: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let start = id.x * GROUPS;
  var mine = -3.4028234e38;  // the lowest f32
  var first = 0u;
  for (var turn = 0u; turn < (GROUPS + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= GROUPS) { break; }
    let v = largest[start + i];
    if (v > mine) { mine = v; first = i; }
  }
  let most = workgroup_max(mine, thread);
  // negated places, exact in f32 below 2^24
  let candidate = select(-16777216.0, -f32(first), mine == most);
  let group = u32(-workgroup_max(candidate, thread));
  if (thread == 0u) { best[id.x] = index[start + min(group, GROUPS - 1u)]; }
}
