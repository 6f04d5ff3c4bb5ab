// provides: HALF_BITS, halves_of, from_sums
// needs: block_scale (BlockScale, scale_zero_of), zeros (ZEROS), affine (centred_sum)
// Small integers to f16 without a conversion: 0x6400 | n is the f16 1024 + n. A number that lies b bits up in its half
// of a word comes out multiplied by 2^b. One multiplication and addition makes (q - 8) / 16, (q - 2) / 4 or q / 128 of it,
// exactly: products are no larger than activations, and sums of those of a piece at most four times as large.
const HALF_BITS = vec2<u32>(0x64006400u);

// The f16 in two words. Through f32, since Naga mistypes a bitcast to f16; drivers leave both conversions out.
fn halves_of(words: vec2<u32>) -> vec4<f16> {
  return vec4<f16>(vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)));
}

// A product from the sum of (q - IMPLIED_ZERO) x and that of x.
fn from_sums(p: BlockScale, sum: f32, x_sum: f32) -> f32 {
  let sz = scale_zero_of(p);
  if (ZEROS) { return centred_sum(sz, sum, x_sum); }
  return sz.x * sum;
}
