// The threshold that the search has found, and the weights of what all filters leave, summed over each part of the row; a
// workgroup takes a part.
// needs: draw (Options), draw_parts (search_on, part_start, best_of_parts), draw_choose (sum_run, all_runs)
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> seen: array<u32>;
@group(0) @binding(2) var<uniform> options: Options;
@group(0) @binding(3) var<storage, read> best: array<u32>;
@group(0) @binding(4) var<storage, read> bins_before: array<u32>;
@group(0) @binding(5) var<storage, read> cut: array<u32>;
@group(0) @binding(6) var<storage, read_write> sums: array<u32>;
@group(0) @binding(7) var<storage, read_write> lowest: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let now = search_on(thread);
  sum_run(part_start(id.x), part_start(id.x + 1u), best_of_parts(), now.lowest, thread);
  workgroupBarrier();
  if (thread == 0u) {
    let sum = all_runs();
    sums[2u * id.x] = sum.x;
    sums[2u * id.x + 1u] = sum.y;
    if (id.x == 0u) { lowest[0] = now.lowest; }
  }
}
