// provides: append
// needs: caller (state), slot (has_slot, slot_of)
// Where two dimensions of a key (part 0) or value (1) go: into the cache, if the token is real and there is room.
@group(0) @binding(5) var<storage, read_write> kv: array<kv_type>;
fn append(token: u32, part: u32, head: u32, dim: u32, apart: u32, pair: vec2<f32>) {
  let row = state[token];
  if (row.real != 0u && has_slot(row.position)) {
    let entry = ((row.sequence * 2u + part) * KV_HEADS + head) * CAPACITY + slot_of(row.position);
    kv[entry * HEAD_DIM + dim] = kv_type(pair.x);
    kv[entry * HEAD_DIM + dim + apart] = kv_type(pair.y);
  }
}
