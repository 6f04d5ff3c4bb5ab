// provides: GROUPS, load_octet
// needs: octet (Octet)
// INT8: four signed numbers a word, lowest byte first; blocks of BLOCK columns share a scale and a zero-point.
const PADDED: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK;
const GROUPS: u32 = PADDED / 32u;
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;

fn bytes(word: u32) -> vec4<f32> {
  return vec4<f32>(vec4<i32>(vec4<u32>(word << 24u, word << 16u, word << 8u, word)) >> vec4<u32>(24u));
}
fn load_octet(row: u32, index: u32) -> Octet {
  let words = quants[row * GROUPS * 2u + (index >> 1u)];
  let pair = select(words.xy, words.zw, (index & 1u) == 1u);
  return Octet(bytes(pair.x), bytes(pair.y));
}
