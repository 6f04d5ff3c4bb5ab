// Scales in f32. SCALE_STRIDE is the number of blocks a row, or 0 where one scale serves the whole tensor.
@group(0) @binding(2) var<storage, read> scales: array<f32>;
fn scale_at(row: u32, block: u32) -> f32 { return scales[row * SCALE_STRIDE + block]; }
