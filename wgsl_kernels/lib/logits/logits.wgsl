// provides: LOWEST, checked, if_number
// Logits as they are read: a NaN or +infinity (not -infinity, which excludes a token) counts as the largest f32, so that
// the largest of a row tells whether all are numbers. Compilers may assume that they are, hence bits.
const LOWEST: f32 = -3.4028234e38;  // which masks write
const NO_NUMBER: f32 = 3.4028234e38;

fn checked(value: f32) -> f32 {
  let bits = bitcast<u32>(value);
  return select(value, NO_NUMBER, (bits & 0x7fffffffu) >= 0x7f800000u && bits != 0xff800000u);
}
// The value, or NaN for a row whose largest logit is none; `row` only keeps a compiler from knowing the NaN beforehand.
fn if_number(value: f32, largest: f32, row: u32) -> f32 {
  return select(value, bitcast<f32>(0x7fc00000u | (row & 1u)), largest >= NO_NUMBER);
}
