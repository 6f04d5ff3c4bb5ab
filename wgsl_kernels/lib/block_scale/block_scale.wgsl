// provides: BlockScale, block_scale_at, scale_zero_of
// needs: scales (scale_bits, scale_from), zeros (zero_bits, zero_from)
// Scale and zero-point (or offset) of a block as they are stored, loaded before they are needed; lib/affine says what a
// weight is.
struct BlockScale { i: u32, scale: u32, zero: u32 }

fn block_scale_at(row: u32, block: u32) -> BlockScale {
  let i = row * SCALE_STRIDE + block;
  return BlockScale(i, scale_bits(i), zero_bits(i));
}
fn scale_zero_of(b: BlockScale) -> vec2<f32> {
  return vec2<f32>(scale_from(b.scale, b.i), zero_from(b.zero, b.i));
}
