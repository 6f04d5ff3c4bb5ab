// y[t, r] = x[t, r] + sum_k B[r, k] lora_x[t, k], with the B of the adapter that the sequence of token t has.
// needs: low_rank (low_rank)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = (id.x + id.z * 32768u) * 64u + thread;
  let token = id.y;
  if (row >= WIDTH) { return; }
  let index = token * WIDTH + row;
  y[index] = y_type(f32(x[index]) + low_rank(token, row));
}
