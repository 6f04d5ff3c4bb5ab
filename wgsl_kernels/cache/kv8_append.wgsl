// Keys and values of the step's tokens into the INT8 cache: a workgroup takes one head of the keys, or of the values, of
// one token.
// needs: state (Rows), append_head (append_head)
@group(0) @binding(4) var<uniform> state: Rows;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  append_head(id.z, id.y, id.x, thread);  // keys, then values
}
