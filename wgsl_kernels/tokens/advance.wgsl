// After a generated token of each row: it becomes the row's next input, joins the history, and the row moves on by one
// position. So several steps can be recorded into one submit.
@group(0) @binding(0) var<storage, read> token: array<u32>;
@group(0) @binding(1) var<storage, read_write> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> history: array<u32>;  // [step][row]
@group(0) @binding(3) var<storage, read_write> state: array<u32>;    // the words of lib/state, row by row

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let row = id.x;
  if (row >= TOKENS) { return; }
  let step = state[4u * row + 3u];
  ids[row] = token[row];
  if (step < STEPS) { history[step * TOKENS + row] = token[row]; }
  state[4u * row] = state[4u * row] + 1u;
  state[4u * row + 3u] = step + 1u;
}
