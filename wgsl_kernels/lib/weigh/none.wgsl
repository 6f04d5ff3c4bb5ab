// provides: weigh
// Activations enter a product as they are.
fn weigh(v: vec4<f32>, column: u32) -> vec4<f32> { return v; }
