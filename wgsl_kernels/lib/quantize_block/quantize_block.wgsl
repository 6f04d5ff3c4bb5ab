// provides: quantized_block
// needs: to_bytes (scale_for, largest_of, to_bytes, inverse_of)
// 32 activations to INT8 (lib/to_bytes). Of each 4 * stride columns, word j holds columns j, j + stride,
// j + 2 * stride, j + 3 * stride: the order that a weight format unpacks to.
struct QuantizedBlock { a: vec4<u32>, b: vec4<u32>, scale: f32 }

fn quantized_block(v: array<vec4<f32>, 8>, stride: u32) -> QuantizedBlock {
  var largest = vec4<f32>();
  for (var i = 0u; i < 8u; i++) { largest = max(largest, abs(v[i])); }
  let scale = scale_for(largest_of(largest));
  var q: array<vec4<u32>, 8>;
  for (var i = 0u; i < 8u; i++) { q[i] = to_bytes(v[i], inverse_of(scale)); }
  var words: array<u32, 8>;
  for (var j = 0u; j < 8u; j++) {
    let column = j / stride * (4u * stride) + j % stride;
    for (var i = 0u; i < 4u; i++) {
      let at = column + i * stride;
      words[j] |= q[at / 4u][at % 4u] << (8u * i);
    }
  }
  return QuantizedBlock(vec4<u32>(words[0], words[1], words[2], words[3]),
                        vec4<u32>(words[4], words[5], words[6], words[7]), scale);
}
