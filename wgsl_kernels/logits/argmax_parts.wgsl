// Of each GROUP numbers of a row the largest and its index, the first of equals: the first half of an argmax over long rows
// (argmax_reduce.wgsl is the other). A workgroup takes one group; what a thread looks at is on its way together.
// needs: reduce (workgroup_max)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read_write> largest: array<f32>;
@group(0) @binding(2) var<storage, read_write> index: array<u32>;

const LOWEST: f32 = -3.4028234e38;
const TOGETHER: u32 = 8u;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let start = id.y * WIDTH;
  let end = min((id.x + 1u) * GROUP, WIDTH);
  var mine = LOWEST;
  var found = id.x * GROUP;
  for (var turn = 0u; turn < (GROUP + TOGETHER * WORKGROUP - 1u) / (TOGETHER * WORKGROUP); turn++) {
    let first = id.x * GROUP + turn * TOGETHER * WORKGROUP + thread;
    if (first >= end) { break; }
    var v: array<f32, TOGETHER>;
    for (var i = 0u; i < TOGETHER; i++) {
      let at = first + i * WORKGROUP;
      v[i] = select(LOWEST, f32(x[start + min(at, WIDTH - 1u)]), at < end);
    }
    for (var i = 0u; i < TOGETHER; i++) {
      if (v[i] > mine) { mine = v[i]; found = first + i * WORKGROUP; }
    }
  }
  let most = workgroup_max(mine, thread);
  // negated indices, exact in f32 below 2^24
  let candidate = select(-16777216.0, -f32(found), mine == most);
  let best = u32(-workgroup_max(candidate, thread));
  if (thread == 0u) {
    largest[id.y * GROUPS + id.x] = most;
    index[id.y * GROUPS + id.x] = best;
  }
}
