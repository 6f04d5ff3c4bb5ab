// provides: EVEN_PLACES, ODD_PLACES, with_word
// needs: magic (masked)
// The eight columns of an INT4 word times activations in their places; conversion as in lib/magic.
const NIBBLES = vec4<u32>(0xfu, 0xf0u, 0xf00u, 0xf000u);
const EVEN_PLACES = vec4<f32>(1.0, 0.0625, 0.00390625, 0.000244140625);  // 2^0, 2^-4, 2^-8, 2^-12
const ODD_PLACES = EVEN_PLACES;

fn with_word(sum: vec4<f32>, word: u32, a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  return sum + masked(word, NIBBLES) * a + masked(word >> 16u, NIBBLES) * b;
}
