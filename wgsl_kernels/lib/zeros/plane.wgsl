// provides: ZEROS, zero_bits, zero_from
// Zero-points, four int8 a word, in units of ZERO_UNIT (a power of two).
@group(0) @binding(3) var<storage, read> zeros: array<u32>;
const ZEROS: bool = true;
fn zero_bits(i: u32) -> u32 { return zeros[i >> 2u]; }
fn zero_from(bits: u32, i: u32) -> f32 { return f32(i32(bits << (24u - 8u * (i & 3u))) >> 24u) * ZERO_UNIT; }
