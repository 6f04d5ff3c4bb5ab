// provides: norm
// A norm's weights, four columns each.
@group(0) @binding(7) var<storage, read> norm: array<vec4<f32>>;
