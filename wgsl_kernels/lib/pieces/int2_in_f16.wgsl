// provides: PIECE, Words, arranged, piece_sum
// needs: columns/half_32 (Octets, Arranged, Columns), halves (halves_of, HALF_BITS, from_sums), quant_pieces (Piece)
// INT2 weights times f16 activations, 32 columns (8 bytes of a row) at a time; conversion as in lib/halves.
const PIECE: u32 = 32u;
alias Words = vec2<u32>;

// The columns that neighbouring numbers of a word's halves multiply: those of two octets, in pairs eight apart.
fn pairs(a: vec4<f16>, b: vec4<f16>) -> array<vec4<f16>, 2> {
  return array<vec4<f16>, 2>(vec4<f16>(a.x, b.x, a.y, b.y), vec4<f16>(a.z, b.z, a.w, b.w));
}
fn arranged(o: Octets) -> Arranged {
  let a = pairs(o[0].a, o[1].a);
  let b = pairs(o[0].b, o[1].b);
  let c = pairs(o[2].a, o[3].a);
  let d = pairs(o[2].b, o[3].b);
  return Arranged(a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]);
}
// (q - 2) / 4 of columns 0, 8, 1 and 9 of a word, and of 2, 10, 3 and 11.
fn quads(word: u32) -> vec4<f16> {
  return halves_of((vec2<u32>(word) & vec2<u32>(0x00030003u, 0x000c000cu)) | HALF_BITS)
       * vec4<f16>(0.25h, 0.25h, 0.0625h, 0.0625h) - vec4<f16>(256.5h, 256.5h, 64.5h, 64.5h);
}
fn next_quads(word: u32) -> vec4<f16> {
  return halves_of((vec2<u32>(word) & vec2<u32>(0x00300030u, 0x00c000c0u)) | HALF_BITS)
       * vec4<f16>(0.015625h, 0.015625h, 0.00390625h, 0.00390625h) - vec4<f16>(16.5h, 16.5h, 4.5h, 4.5h);
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  let d = quads(p.w.x) * c.v[0] + next_quads(p.w.x) * c.v[1] + quads(p.w.x >> 8u) * c.v[2] + next_quads(p.w.x >> 8u) * c.v[3]
        + quads(p.w.y) * c.v[4] + next_quads(p.w.y) * c.v[5] + quads(p.w.y >> 8u) * c.v[6] + next_quads(p.w.y >> 8u) * c.v[7];
  return from_sums(p.scale, 4.0 * dot(vec4<f32>(d), vec4<f32>(1.0)), c.sum);
}
