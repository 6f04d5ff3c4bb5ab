// provides: low_columns, high_columns, with_word
// needs: x8 (Octet), halves (halves_of, HALF_BITS)
// The eight columns of an INT4 word times f16 activations, in the order in which nibbles come out of it: those 16 bits
// apart make a pair. A weight is (q - 8) / 16.
fn low_columns(o: Octet) -> vec4<f16> { return vec4<f16>(o.a.x, o.b.x, o.a.y, o.b.y); }
fn high_columns(o: Octet) -> vec4<f16> { return vec4<f16>(o.a.z, o.b.z, o.a.w, o.b.w); }
fn quads(word: u32) -> vec4<f16> {
  return halves_of((vec2<u32>(word) & vec2<u32>(0x000f000fu, 0x00f000f0u)) | HALF_BITS)
       * vec4<f16>(0.0625h, 0.0625h, 0.00390625h, 0.00390625h) - vec4<f16>(64.5h, 64.5h, 4.5h, 4.5h);
}
fn with_word(sum: vec4<f16>, word: u32, a: vec4<f16>, b: vec4<f16>) -> vec4<f16> {
  return sum + quads(word) * a + quads(word >> 8u) * b;
}
