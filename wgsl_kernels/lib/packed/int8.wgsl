// provides: Bytes, Packed, packed_at, unpacked
// INT8 weights for integer dot products, 32 columns at a time; activation words in natural order (stride 1).
const ROW_GROUPS: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / 32u;
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;
struct Bytes { a: vec4<u32>, b: vec4<u32> }

alias Packed = Bytes;
fn packed_at(row: u32, group: u32) -> Packed {
  let i = (row * ROW_GROUPS + group) * 2u;
  return Bytes(quants[i], quants[i + 1u]);
}
fn unpacked(w: Packed) -> Bytes { return w; }
