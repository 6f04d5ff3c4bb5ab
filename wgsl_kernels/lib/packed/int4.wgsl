// provides: Bytes, Packed, packed_at, unpacked
// INT4 weights for integer dot products, 32 columns at a time. Low nibbles of a word are its even columns, high nibbles
// its odd ones, so activation words come in stride 2: even columns, then odd columns of each eight.
const ROW_GROUPS: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / 32u;
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;
struct Bytes { a: vec4<u32>, b: vec4<u32> }

alias Packed = vec4<u32>;
fn packed_at(row: u32, group: u32) -> Packed { return quants[row * ROW_GROUPS + group]; }
fn unpacked(w: Packed) -> Bytes {
  let even = w & vec4<u32>(0x0f0f0f0fu);
  let odd = (w >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
  return Bytes(vec4<u32>(even.x, odd.x, even.y, odd.y), vec4<u32>(even.z, odd.z, even.w, odd.w));
}
