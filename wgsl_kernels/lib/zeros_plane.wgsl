// Zero-points, four int8 a word, in units of ZERO_UNIT (a power of two). A weight is scale * quant + offset.
@group(0) @binding(3) var<storage, read> zeros: array<u32>;
fn scale_offset(row: u32, block: u32) -> vec2<f32> {
  let i = row * SCALE_STRIDE + block;
  let zero = f32(i32(zeros[i >> 2u] << (24u - 8u * (i & 3u))) >> 24u) * ZERO_UNIT;
  let scale = scale_at(row, block);
  return vec2<f32>(scale, -scale * zero);
}
