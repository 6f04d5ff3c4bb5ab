// provides: ZEROS, zero_bits, zero_from
// Offsets in place of zero-points (lib/affine/offset.wgsl), two f16 a word.
@group(0) @binding(3) var<storage, read> offsets: array<u32>;
const ZEROS: bool = true;
fn zero_bits(i: u32) -> u32 { return offsets[i >> 1u]; }
fn zero_from(bits: u32, i: u32) -> f32 {
  let pair = unpack2x16float(bits);
  return select(pair.x, pair.y, (i & 1u) == 1u);
}
