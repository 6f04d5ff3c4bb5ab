// provides: gate_at, up_at
// Gate and up in two arrays, four numbers at a time.
@group(0) @binding(0) var<storage, read> gate: array<vec4<gate_type>>;
@group(0) @binding(1) var<storage, read> up: array<vec4<up_type>>;
fn gate_at(row: u32, quad: u32) -> vec4<f32> { return vec4<f32>(gate[row * (WIDTH / 4u) + quad]); }
fn up_at(row: u32, quad: u32) -> vec4<f32> { return vec4<f32>(up[row * (WIDTH / 4u) + quad]); }
