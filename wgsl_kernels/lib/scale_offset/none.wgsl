// provides: scale_offset
// needs: weights (GROUPS)
// Float weights: no scale, no offset; one block a row.
const BLOCK: u32 = GROUPS * 32u;
fn scale_offset(row: u32, block: u32) -> vec2<f32> { return vec2<f32>(1.0, 0.0); }
