// A head of the keys (part 0) or values (1) of a token into the cache, if the token is real and there is room.
@group(0) @binding(2) var<storage, read_write> kv: array<kv_type>;
fn append_head(part: u32, token: u32, head: u32, thread: u32) {
  let position = state.position + token;
  if (token < state.valid && position < CAPACITY) {
    let row = ((state.sequence * 2u + part) * KV_HEADS + head) * CAPACITY + position;
    for (var d = thread; d < HEAD_DIM; d += WORKGROUP) {
      kv[row * HEAD_DIM + d] = kv_type(new_number(part, token, head, d));
    }
  }
}
