// provides: FIRST_BITS, from_bits
// Whole numbers as floats without a conversion: a sum of |n| < 2^22 that begins with FIRST_BITS, those of 1.5 * 2^23, has
// the bits of 1.5 * 2^23 + n.
const FIRST_BITS: i32 = 0x4b400000;
fn from_bits(sum: i32) -> f32 { return bitcast<f32>(sum) - 12582912.0; }
