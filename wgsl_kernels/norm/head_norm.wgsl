// y = x / sqrt(mean(x^2) + eps) * weight, head by head: a workgroup normalises one head of one token.
// needs: head_factor (head_factor), head_weight (weight_at)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(2) var<storage, read_write> y: array<y_type>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let start = id.y * WIDTH + id.x * HEAD_DIM;
  let factor = head_factor(start, thread);
  for (var turn = 0u; turn < (HEAD_DIM + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= HEAD_DIM) { break; }
    y[start + i] = y_type(f32(x[start + i]) * factor * weight_at(i));
  }
}
