// provides: scale_offset
// needs: block_scale (scale_zero_of, block_scale_at), affine (offset_of)
// Weights in blocks: scale, and what a weight is beside scale * quant.
fn scale_offset(row: u32, block: u32) -> vec2<f32> {
  let sz = scale_zero_of(block_scale_at(row, block));
  return vec2<f32>(sz.x, offset_of(sz));
}
