// Small integers to f16 without a conversion: 0x6400 | n is the f16 1024 + n. A number that lies b bits up in its half
// of a word comes out multiplied by 2^b. One multiplication and addition makes (q - centre) / 2^bits of it, exactly:
// products then stay as small as the activations, which no sum of a few of them takes out of f16's range.
const HALF_BITS = vec2<u32>(0x64006400u);

// The f16 in two words. Through f32, since Naga mistypes a bitcast to f16; drivers leave both conversions out.
fn halves_of(words: vec2<u32>) -> vec4<f16> {
  return vec4<f16>(vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)));
}
