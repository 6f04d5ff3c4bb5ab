// Activations enter a product as they are.
const EXTRA: u32 = 0u;
fn weigh(v: vec4<f32>, column: u32) -> vec4<f32> { return v; }
fn extra_sum() -> f32 { return 0.0; }
