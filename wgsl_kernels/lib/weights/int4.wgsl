// provides: GROUPS, load_octet
// needs: octet (Octet)
// INT4: eight unsigned numbers a word, lowest nibble first; blocks of BLOCK columns share a scale and a zero-point.
const PADDED: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK;
const GROUPS: u32 = PADDED / 32u;
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;

fn nibbles(word: u32) -> Octet {
  return Octet(vec4<f32>((vec4<u32>(word) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u)),
               vec4<f32>((vec4<u32>(word) >> vec4<u32>(16u, 20u, 24u, 28u)) & vec4<u32>(15u)));
}
fn load_octet(row: u32, index: u32) -> Octet { return nibbles(quants[row * GROUPS + (index >> 2u)][index & 3u]); }
