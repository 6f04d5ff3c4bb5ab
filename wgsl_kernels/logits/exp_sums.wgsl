// The largest of each part of a row, and the sum of exp(x - largest) over it; a workgroup takes a part.
// needs: reduce (workgroup_max, workgroup_sum)
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> largest: array<f32>;
@group(0) @binding(2) var<storage, read_write> total: array<f32>;

// Numbers of a part, and of a thread.
const LENGTH: u32 = (WIDTH + PARTS - 1u) / PARTS;
const TURNS: u32 = (LENGTH + WORKGROUP - 1u) / WORKGROUP;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let first = id.x * LENGTH;
  let last = min(first + LENGTH, WIDTH);
  var mine = -3.4028234e38;  // the lowest f32
  for (var turn = 0u; turn < TURNS; turn++) {
    let i = first + turn * WORKGROUP + thread;
    if (i >= last) { break; }
    mine = max(mine, x[i]);
  }
  let most = workgroup_max(mine, thread);
  var sum = 0.0;
  for (var turn = 0u; turn < TURNS; turn++) {
    let i = first + turn * WORKGROUP + thread;
    if (i >= last) { break; }
    sum += exp(x[i] - most);
  }
  sum = workgroup_sum(sum, thread);
  if (thread == 0u) {
    largest[id.x] = most;
    total[id.x] = sum;
  }
}
