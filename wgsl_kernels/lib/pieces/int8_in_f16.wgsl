// provides: PIECE, Words, arranged, piece_sum
// needs: columns/half_16 (Octets, Arranged, Columns), halves (halves_of, from_sums), quant_pieces (Piece)
// INT8 weights times f16 activations, 16 columns (16 bytes of a row) at a time; conversion as in lib/halves.
const PIECE: u32 = 16u;
alias Words = vec4<u32>;

fn arranged(o: Octets) -> Arranged { return Arranged(o[0].a.xzyw, o[0].b.xzyw, o[1].a.xzyw, o[1].b.xzyw); }
// q / 128 of columns 0, 2, 1 and 3 of a word.
fn quads(word: u32) -> vec4<f16> {
  let unsigned = (vec2<u32>(word, word >> 8u) & vec2<u32>(0x00ff00ffu)) ^ vec2<u32>(0x64806480u);  // 1024 + (q + 128)
  return halves_of(unsigned) * vec4<f16>(0.0078125h) - vec4<f16>(9.0h);
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  let d = quads(p.w.x) * c.v[0] + quads(p.w.y) * c.v[1] + quads(p.w.z) * c.v[2] + quads(p.w.w) * c.v[3];
  return from_sums(p.scale, 128.0 * dot(vec4<f32>(d), vec4<f32>(1.0)), c.sum);
}
