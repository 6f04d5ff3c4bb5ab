// Scale and zero-point of a block as they are stored, loaded before they are needed. A weight is scale * quant + offset.
struct BlockScale { i: u32, scale: u32, zero: u32 }

fn block_scale_at(row: u32, block: u32) -> BlockScale {
  let i = row * SCALE_STRIDE + block;
  return BlockScale(i, scale_bits(i), zero_bits(i));
}
fn scale_offset_of(b: BlockScale) -> vec2<f32> {
  let scale = scale_from(b.scale, b.i);
  return vec2<f32>(scale, -scale * zero_from(b.zero, b.i));
}
fn scale_offset(row: u32, block: u32) -> vec2<f32> { return scale_offset_of(block_scale_at(row, block)); }
