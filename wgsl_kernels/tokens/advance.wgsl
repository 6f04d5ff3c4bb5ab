// After a generated token: it becomes the next input, joins the history, and the state moves on by one. So several
// steps can be recorded into one submit.
@group(0) @binding(0) var<storage, read> token: array<u32>;
@group(0) @binding(1) var<storage, read_write> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> history: array<u32>;
@group(0) @binding(3) var<storage, read_write> state: array<u32>;  // the words of lib/state

@compute @workgroup_size(1)
fn main() {
  let step = state[3];
  ids[0] = token[0];
  if (step < STEPS) { history[step] = token[0]; }
  state[0] = state[0] + 1u;
  state[3] = step + 1u;
}
