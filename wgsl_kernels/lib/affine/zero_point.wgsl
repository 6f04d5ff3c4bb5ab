// provides: scaled, block_sum, centred_sum, offset_of
// What a weight is: scale * (quant - zero). sz: scale and zero of a block.
fn scaled(sz: vec2<f32>, factor: f32) -> vec2<f32> { return vec2<f32>(sz.x * factor, sz.y); }

// A product from the sum of quant * x and that of x.
fn block_sum(sz: vec2<f32>, sum: f32, x_sum: f32) -> f32 { return sz.x * (sum - sz.y * x_sum); }

// The same from the sum of (quant - IMPLIED_ZERO) x.
fn centred_sum(sz: vec2<f32>, sum: f32, x_sum: f32) -> f32 { return sz.x * (sum - (sz.y - IMPLIED_ZERO) * x_sum); }

// What a weight is beside scale * quant.
fn offset_of(sz: vec2<f32>) -> f32 { return -sz.x * sz.y; }
