// Scales, two f16 a word. SCALE_STRIDE is the number of blocks a row, or 0 where one scale serves the whole tensor.
@group(0) @binding(2) var<storage, read> scales: array<u32>;
fn scale_at(row: u32, block: u32) -> f32 {
  let i = row * SCALE_STRIDE + block;
  let pair = unpack2x16float(scales[i >> 1u]);
  return select(pair.x, pair.y, (i & 1u) == 1u);
}
