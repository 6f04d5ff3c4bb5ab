// provides: ZEROS, zero_bits, zero_from
// Offsets in place of zero-points (lib/affine/offset.wgsl), in f32.
@group(0) @binding(3) var<storage, read> offsets: array<u32>;
const ZEROS: bool = true;
fn zero_bits(i: u32) -> u32 { return offsets[i]; }
fn zero_from(bits: u32, i: u32) -> f32 { return bitcast<f32>(bits); }
