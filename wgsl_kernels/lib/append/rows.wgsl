// provides: append
// Where two dimensions of a key (part 0) or value (1) go: into the token's row, for `kv8_append_rows` to take.
@group(0) @binding(5) var<storage, read_write> rows: array<f32>;
fn append(token: u32, part: u32, head: u32, dim: u32, apart: u32, pair: vec2<f32>) {
  let at = ((token * 2u + part) * KV_HEADS + head) * HEAD_DIM + dim;
  rows[at] = pair.x;
  rows[at + apart] = pair.y;
}
