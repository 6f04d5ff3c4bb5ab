// One digit of a threshold: what the round before has summed gives the digit before it, and the keys that have all digits
// found so far are counted, or weighed, by their next one. A workgroup takes a part of the row.
//
// A single workgroup has nothing to hide its loads behind, and takes 120 us for one pass over 128,256 logits (H100).
// needs: draw (Options, key_of, weight_of), draw_parts (search_on, best_of_parts, shift_of, LENGTH, part_start),
//   draw_bins (clear_bins, is_on, is_within, bins, put, BIN_WORDS)
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> seen: array<u32>;
@group(0) @binding(2) var<uniform> options: Options;
@group(0) @binding(3) var<storage, read> best: array<u32>;
@group(0) @binding(4) var<storage, read> bins_before: array<u32>;
@group(0) @binding(5) var<storage, read> cut: array<u32>;
@group(0) @binding(6) var<storage, read_write> bins_after: array<u32>;
@group(0) @binding(7) var<storage, read_write> cut_after: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let now = search_on(thread);
  clear_bins(thread);
  workgroupBarrier();
  if (is_on(now.round)) {
    let largest = best_of_parts();
    let shift = shift_of(now.round);
    for (var turn = 0u; turn < (LENGTH + WORKGROUP - 1u) / WORKGROUP; turn++) {
      let i = part_start(id.x) + turn * WORKGROUP + thread;
      if (i >= part_start(id.x + 1u)) { break; }
      let key = key_of(i);
      if (key >= now.lowest && is_within(key, now.prefix, shift)) {
        let digit = (key >> shift) & 255u;
        if (now.round < 4u) { atomicAdd(&bins[digit], 1u); } else { put(digit, weight_of(key, largest)); }
      }
    }
  }
  workgroupBarrier();
  for (var turn = 0u; turn < BIN_WORDS / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    bins_after[id.x * BIN_WORDS + i] = atomicLoad(&bins[i]);
  }
  if (id.x == 0u && thread == 0u) {
    cut_after[0] = now.prefix;
    cut_after[1] = now.wanted.x;
    cut_after[2] = now.wanted.y;
    cut_after[3] = now.lowest;
    cut_after[4] = now.round;
  }
}
