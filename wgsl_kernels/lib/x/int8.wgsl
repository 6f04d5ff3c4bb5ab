// provides: x4
// needs: x_a8/buffer (x_words, x_scale)
// Activations that `quantize_activations` wrote, as the floats that they stand for, four at a time: of each 4 * STRIDE
// columns word j holds columns j, j + STRIDE and so on. What lies beyond a row is 0 there.
fn x4(token: u32, column: u32) -> vec4<f32> {
  if (column >= X_GROUPS * 32u) { return vec4<f32>(); }
  let words = x_words(token, column / 16u);
  let quad = column / 4u % 4u;
  var bytes = words >> vec4<u32>(quad * 8u);                // of four words one byte each
  if (STRIDE == 1u) {                                       // of one word four
    bytes = vec4<u32>(words[quad]) >> vec4<u32>(0u, 8u, 16u, 24u);
  } else if (STRIDE == 2u) {                                // of two words two
    let two = select(words.xy, words.zw, quad >= 2u);
    bytes = two.xyxy >> (vec4<u32>(0u, 0u, 8u, 8u) + quad % 2u * 16u);
  }
  return vec4<f32>(bitcast<vec4<i32>>(bytes << vec4<u32>(24u)) >> vec4<u32>(24u)) * x_scale(token, column / 32u);
}
