// provides: x8, Octet, octet_of, sum_octet
// needs: halves (halves_of)
// f16 activations read eight at a time; COLUMNS is a multiple of 8; what lies beyond a row reads as 0, which can happen
// only where COLUMNS is no whole number of groups of 32: no caller goes beyond those.
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
fn x8(token: u32, column: u32) -> vec4<u32> {
  if (COLUMNS % 32u != 0u && column >= COLUMNS) { return vec4<u32>(); }
  return x[(token * COLUMNS + column) >> 3u];
}

struct Octet { a: vec4<f16>, b: vec4<f16> }
fn octet_of(words: vec4<u32>) -> Octet { return Octet(halves_of(words.xy), halves_of(words.zw)); }
fn sum_octet(o: Octet) -> f32 { return dot(vec4<f32>(o.a) + vec4<f32>(o.b), vec4<f32>(1.0)); }
