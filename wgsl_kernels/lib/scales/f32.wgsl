// provides: scale_bits, scale_from
// Scales in f32. SCALE_STRIDE is the number of blocks a row, or 0 where one scale serves the whole tensor.
@group(0) @binding(2) var<storage, read> scales: array<u32>;
fn scale_bits(i: u32) -> u32 { return scales[i]; }
fn scale_from(bits: u32, i: u32) -> f32 { return bitcast<f32>(bits); }
