// INT2 weights times INT8 activations, 32 columns at a time. Bits 2s and 2s+1 of a word's bytes are its columns s, s+4,
// s+8, s+12, so activation words come in stride 4.
const PADDED: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK;
const GROUPS: u32 = PADDED / 32u;
@group(0) @binding(1) var<storage, read> quants: array<vec2<u32>>;

fn dot_sixteen(word: u32, x: vec4<u32>) -> i32 {
  return dot4I8Packed(word & 0x03030303u, x.x) + dot4I8Packed((word >> 2u) & 0x03030303u, x.y)
       + dot4I8Packed((word >> 4u) & 0x03030303u, x.z) + dot4I8Packed((word >> 6u) & 0x03030303u, x.w);
}
fn dot_group(row: u32, group: u32, a: vec4<u32>, b: vec4<u32>) -> i32 {
  let w = quants[row * GROUPS + group];
  return dot_sixteen(w.x, a) + dot_sixteen(w.y, b);
}
