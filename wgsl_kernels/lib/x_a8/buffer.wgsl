// provides: add_squares, x_words, x_scale
// INT8 activations as `quantize_activations` wrote them.
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(7) var<storage, read> x_scales: array<f32>;
fn add_squares(group: u32) {}
fn x_words(token: u32, i: u32) -> vec4<u32> { return x[token * X_GROUPS * 2u + i]; }
fn x_scale(token: u32, group: u32) -> f32 { return x_scales[token * X_GROUPS + group]; }
