// provides: new_quad
// needs: caller (QUADS)
// Keys and values to append, in two arrays.
@group(0) @binding(0) var<storage, read> k: array<vec4<k_type>>;
@group(0) @binding(1) var<storage, read> v: array<vec4<v_type>>;
fn new_quad(part: u32, token: u32, head: u32, quad: u32) -> vec4<f32> {
  let at = token * (WIDTH / 4u) + head * QUADS + quad;
  if (part == 0u) { return vec4<f32>(k[at]); }
  return vec4<f32>(v[at]);
}
