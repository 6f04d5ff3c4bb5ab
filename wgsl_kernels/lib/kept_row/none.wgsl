// provides: keep_quad
// The row that is read is there already.
fn keep_quad(token: u32, column: u32, v: vec4<f32>) {}
