// provides: gate_at, up_at
// A row of gate and one of up side by side, as one product of both leaves them, four numbers at a time.
@group(0) @binding(0) var<storage, read> x: array<vec4<x_type>>;
fn gate_at(row: u32, quad: u32) -> vec4<f32> { return vec4<f32>(x[row * (WIDTH / 2u) + quad]); }
fn up_at(row: u32, quad: u32) -> vec4<f32> { return vec4<f32>(x[row * (WIDTH / 2u) + WIDTH / 4u + quad]); }
