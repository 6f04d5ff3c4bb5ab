// provides: keep_quad
// The row that is made goes to memory, four columns at a time.
@group(0) @binding(4) var<storage, read_write> total: array<vec4<total_type>>;
fn keep_quad(token: u32, column: u32, v: vec4<f32>) { total[(token * COLUMNS + column) / 4u] = vec4<total_type>(v); }
