// provides: scaled, block_sum, centred_sum, offset_of
// What a weight is: scale * quant + offset, the other kind of zero. so: scale and offset of a block.
fn scaled(so: vec2<f32>, factor: f32) -> vec2<f32> { return so * factor; }
fn block_sum(so: vec2<f32>, sum: f32, x_sum: f32) -> f32 { return so.x * sum + so.y * x_sum; }
fn centred_sum(so: vec2<f32>, sum: f32, x_sum: f32) -> f32 { return so.x * sum + (so.x * IMPLIED_ZERO + so.y) * x_sum; }
fn offset_of(so: vec2<f32>) -> f32 { return so.y; }
