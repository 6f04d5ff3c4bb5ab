// provides: QUADS, append_head
// needs: new_quad (new_quad), to_bytes (scale_for, largest_of, to_word, to_bytes, inverse_of), reduce (workgroup_max),
//   caller (state), slot (has_slot, slot_of)
// Quantizes a head of the keys (part 0) or values (1) of a token into the INT8 cache [sequence][key or value][head]
// [position], if the token is real and there is room: q = round(x / scale), scale = max |x| / 127 over the head. A
// thread makes words of four bytes.
@group(0) @binding(2) var<storage, read_write> kv: array<u32>;
@group(0) @binding(3) var<storage, read_write> kv_scales: array<f32>;

const QUADS: u32 = HEAD_DIM / 4u;
const MINE: u32 = (WORDS + WORKGROUP - 1u) / WORKGROUP;

fn append_head(part: u32, token: u32, head: u32, thread: u32) {
  var quads: array<vec4<f32>, MINE>;
  var largest = vec4<f32>();
  for (var m = 0u; m < MINE; m++) {
    let quad = thread + m * WORKGROUP;
    if (quad < QUADS) { quads[m] = new_quad(part, token, head, quad); }
    largest = max(largest, abs(quads[m]));
  }
  let scale = scale_for(workgroup_max(largest_of(largest), thread));
  let row = state[token];
  let entry = ((row.sequence * 2u + part) * KV_HEADS + head) * CAPACITY + slot_of(row.position);
  if (row.real != 0u && has_slot(row.position)) {
    for (var m = 0u; m < MINE; m++) {
      let word = thread + m * WORKGROUP;
      if (word < WORDS) { kv[entry * WORDS + word] = to_word(to_bytes(quads[m], inverse_of(scale))); }
    }
    if (thread == 0u) { kv_scales[entry] = scale; }
  }
}
