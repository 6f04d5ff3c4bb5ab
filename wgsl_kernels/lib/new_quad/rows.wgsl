// provides: new_quad
// needs: caller (QUADS)
// Keys and values to append, side by side.
@group(0) @binding(0) var<storage, read> rows: array<vec4<rows_type>>;
fn new_quad(part: u32, token: u32, head: u32, quad: u32) -> vec4<f32> {
  return vec4<f32>(rows[(token * 2u + part) * (WIDTH / 4u) + head * QUADS + quad]);
}
