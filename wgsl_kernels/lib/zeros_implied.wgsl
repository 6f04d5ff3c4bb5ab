// Symmetric formats: one zero-point for all. A weight is scale * quant + offset.
fn scale_offset(row: u32, block: u32) -> vec2<f32> {
  let scale = scale_at(row, block);
  return vec2<f32>(scale, -scale * IMPLIED_ZERO);
}
