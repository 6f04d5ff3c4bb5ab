// provides: GROUPS, load_octet
// needs: octet (Octet)
// INT2: sixteen unsigned numbers a word, lowest bits first; blocks of BLOCK columns share a scale and a zero-point.
const PADDED: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK;
const GROUPS: u32 = PADDED / 32u;
@group(0) @binding(1) var<storage, read> quants: array<vec2<u32>>;

fn crumbs(half_word: u32) -> Octet {
  return Octet(vec4<f32>((vec4<u32>(half_word) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(3u)),
               vec4<f32>((vec4<u32>(half_word) >> vec4<u32>(8u, 10u, 12u, 14u)) & vec4<u32>(3u)));
}
fn load_octet(row: u32, index: u32) -> Octet {
  let word = quants[row * GROUPS + (index >> 2u)][(index >> 1u) & 1u];
  return crumbs(word >> (16u * (index & 1u)));
}
