// provides: quantized_quad
// needs: to_bytes (largest_of, scale_for, to_word, to_bytes, inverse_of)
// Eight lanes quantize a block of 32 numbers, four each: an eighth of the work in a row. `words` are those of a lane and
// of the three behind it: in order in every fourth lane. stride: of the words, as in lib/quantize_block.
struct QuantizedQuad { words: vec4<u32>, scale: f32 }

// Bytes j, j + stride, ... of neighbouring lanes' words of four columns: a lane gives what others want and gets what it
// lacks (a transposition of bytes).
fn in_stride(word: u32, lane: u32, stride: u32) -> u32 {
  if (stride == 1u) { return word; }
  let other = subgroupShuffleXor(word, 1u);
  let even = select(other, word, (lane & 1u) == 0u);  // the word of the even lane of the two, and of the odd one
  let odd = select(word, other, (lane & 1u) == 0u);
  let shift = (lane & 1u) * 8u;
  let a = (even >> shift) & 0x00ff00ffu;  // columns j and j + 2 of the even lane's four
  let b = (odd >> shift) & 0x00ff00ffu;
  if (stride == 2u) { return (a & 0xffu) | ((a >> 8u) & 0xff00u) | ((b & 0xffu) << 16u) | ((b << 8u) & 0xff000000u); }
  // now a pair (even, odd) of columns j (low halves of a and b) and j + 2: lanes two apart keep one of them
  let low = (a & 0xffu) | ((b & 0xffu) << 8u);
  let high = (a >> 16u) | ((b >> 16u) << 8u);
  let upper = (lane & 2u) != 0u;
  let mine = select(low, high, upper);
  let theirs = subgroupShuffleXor(select(high, low, upper), 2u);
  return select(mine | (theirs << 16u), theirs | (mine << 16u), upper);
}

fn quantized_quad(v: vec4<f32>, lane: u32, stride: u32) -> QuantizedQuad {
  var largest = largest_of(abs(v));
  for (var n = 0u; n < 3u; n++) { largest = max(largest, subgroupShuffleXor(largest, 1u << n)); }
  let scale = scale_for(largest);
  let word = in_stride(to_word(to_bytes(v, inverse_of(scale))), lane, stride);
  return QuantizedQuad(vec4<u32>(word, subgroupShuffleXor(word, 1u), subgroupShuffleXor(word, 2u),
                                 subgroupShuffleXor(word, 3u)), scale);
}
