// Quantizes keys and values of the step's real tokens and writes them into the INT8 cache [sequence][key or value]
// [head][position]: q = round(x / scale), scale = max |x| / 127 over a head. A workgroup takes one head of the keys, or
// of the values, of one token; a thread makes words of four bytes.
@group(0) @binding(2) var<storage, read_write> kv: array<u32>;
@group(0) @binding(3) var<storage, read_write> kv_scales: array<f32>;
@group(0) @binding(4) var<uniform> state: State;

const QUADS: u32 = HEAD_DIM / 4u;
const MINE: u32 = (WORDS + WORKGROUP - 1u) / WORKGROUP;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = id.x;
  let token = id.y;
  let part = id.z;  // keys, then values
  var quads: array<vec4<f32>, MINE>;
  var largest = vec4<f32>();
  for (var m = 0u; m < MINE; m++) {
    let quad = thread + m * WORKGROUP;
    if (quad < QUADS) { quads[m] = new_quad(part, token, head * QUADS + quad); }
    largest = max(largest, abs(quads[m]));
  }
  let scale = scale_for(workgroup_max(largest_of(largest), thread));
  let position = state.position + token;
  let row = ((state.sequence * 2u + part) * KV_HEADS + head) * CAPACITY + position;
  if (token < state.valid && position < CAPACITY) {
    for (var m = 0u; m < MINE; m++) {
      let word = thread + m * WORKGROUP;
      if (word < WORDS) { kv[row * WORDS + word] = to_word(to_bytes(quads[m], inverse_of(scale))); }
    }
    if (thread == 0u) { kv_scales[row] = scale; }
  }
}
