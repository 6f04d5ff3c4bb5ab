// provides: ZEROS, zero_bits, zero_from
// Symmetric formats: one zero-point for all.
const ZEROS: bool = false;
fn zero_bits(i: u32) -> u32 { return 0u; }
fn zero_from(bits: u32, i: u32) -> f32 { return IMPLIED_ZERO; }
