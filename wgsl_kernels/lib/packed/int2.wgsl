// provides: Bytes, Packed, packed_at, unpacked
// INT2 weights for integer dot products, 32 columns at a time. Bits 2s and 2s+1 of a word's bytes are its columns s,
// s+4, s+8, s+12, so activation words come in stride 4.
const ROW_GROUPS: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / 32u;
@group(0) @binding(1) var<storage, read> quants: array<vec2<u32>>;
struct Bytes { a: vec4<u32>, b: vec4<u32> }

alias Packed = vec2<u32>;
fn packed_at(row: u32, group: u32) -> Packed { return quants[row * ROW_GROUPS + group]; }
fn unpacked(w: Packed) -> Bytes {
  let shifts = vec4<u32>(0u, 2u, 4u, 6u);
  return Bytes((vec4<u32>(w.x) >> shifts) & vec4<u32>(0x03030303u), (vec4<u32>(w.y) >> shifts) & vec4<u32>(0x03030303u));
}
