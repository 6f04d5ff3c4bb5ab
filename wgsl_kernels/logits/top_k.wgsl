// The K largest numbers of each row and their places, largest first, of equals the first first; a workgroup takes a row.
//
// A knockout: every thread knows the best that is left of its groups (of GROUP numbers each; `best_of` starts with them).
// In each of K rounds the best of all wins, and only its group is looked through again for who is next: the row itself is
// read once, or, where a product left the best of each group, only where winners come from.
// needs: reduce (workgroup_max), best_of (best_of)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read_write> values: array<f32>;
@group(0) @binding(2) var<storage, read_write> indices: array<u32>;

const LOWEST: f32 = -3.4028234e38;
const NOWHERE: u32 = 16777216u;  // places are exact in f32 below 2^24
const HELD: u32 = (GROUPS + WORKGROUP - 1u) / WORKGROUP;
struct Place { value: f32, index: u32 }
var<private> held: array<Place, HELD>;

// The largest of what the threads have, the first of equals.
fn best_of_all(mine: Place, thread: u32) -> Place {
  let most = workgroup_max(mine.value, thread);
  let first = workgroup_max(select(-f32(NOWHERE), -f32(mine.index), mine.value == most), thread);
  return Place(most, u32(-first));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = id.x;
  for (var i = 0u; i < HELD; i++) {
    let group = i * WORKGROUP + thread;
    held[i] = Place(LOWEST, NOWHERE);
    if (group < GROUPS) { held[i] = best_of(row, group); }
  }
  for (var round = 0u; round < K; round++) {
    var mine = Place(LOWEST, NOWHERE);
    for (var i = 0u; i < HELD; i++) {
      if (held[i].value > mine.value) { mine = held[i]; }
    }
    let winner = best_of_all(mine, thread);
    if (thread == 0u) {
      values[row * K + round] = winner.value;
      indices[row * K + round] = winner.index;
    }
    let group = winner.index / GROUP;
    var next = Place(LOWEST, NOWHERE);
    for (var turn = 0u; turn < (GROUP + WORKGROUP - 1u) / WORKGROUP; turn++) {
      let at = turn * WORKGROUP + thread;
      let i = group * GROUP + at;
      if (at >= GROUP || i >= WIDTH) { break; }
      let v = f32(x[row * WIDTH + i]);
      let after = v < winner.value || (v == winner.value && i > winner.index);
      if (after && v > next.value) { next = Place(v, i); }
    }
    next = best_of_all(next, thread);
    if (group % WORKGROUP == thread && group < GROUPS) { held[group / WORKGROUP] = next; }
  }
}
