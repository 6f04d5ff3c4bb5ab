// provides: PLACES, bytes
// The four signed bytes of a word as floats, as in lib/magic, without a conversion: PLACES is what they are too large by,
// to be multiplied into queries, and into sums of values at the end.
const PLACES = vec4<f32>(1.0, 0.00390625, 1.0, 0.00390625);  // 2^0, 2^-8
fn bytes(word: u32) -> vec4<f32> {
  let unsigned = word ^ 0x80808080u;  // q + 128
  let pairs = vec4<u32>(unsigned, unsigned, unsigned >> 16u, unsigned >> 16u) & vec4<u32>(0xffu, 0xff00u, 0xffu, 0xff00u);
  return bitcast<vec4<f32>>(pairs | vec4<u32>(0x4b000000u)) - vec4<f32>(8388736.0, 8421376.0, 8388736.0, 8421376.0);
}
