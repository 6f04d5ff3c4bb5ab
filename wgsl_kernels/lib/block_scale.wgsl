// Scale and zero-point of a block as they are stored, loaded before they are needed. A weight is
// scale * (quant - zero), or scale * quant + offset.
struct BlockScale { i: u32, scale: u32, zero: u32 }

fn block_scale_at(row: u32, block: u32) -> BlockScale {
  let i = row * SCALE_STRIDE + block;
  return BlockScale(i, scale_bits(i), zero_bits(i));
}
fn scale_zero_of(b: BlockScale) -> vec2<f32> {
  return vec2<f32>(scale_from(b.scale, b.i), zero_from(b.zero, b.i));
}
fn scale_offset(row: u32, block: u32) -> vec2<f32> {
  let sz = scale_zero_of(block_scale_at(row, block));
  return vec2<f32>(sz.x, -sz.x * sz.y);
}
