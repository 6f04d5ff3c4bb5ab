// provides: Words, arranged, piece_sum
// needs: columns/half_16 (Octets, Arranged, Columns), nibble_halves (low_columns, high_columns, with_word),
//   quant_pieces (Piece), halves (from_sums)
// As int4_in_f16.wgsl, 16 columns (8 bytes of a row), where PIECE is 16.
alias Words = vec2<u32>;

fn arranged(o: Octets) -> Arranged {
  return Arranged(low_columns(o[0]), high_columns(o[0]), low_columns(o[1]), high_columns(o[1]));
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  let d = with_word(with_word(vec4<f16>(), p.w.x, c.v[0], c.v[1]), p.w.y, c.v[2], c.v[3]);
  return from_sums(p.scale, 16.0 * dot(vec4<f32>(d), vec4<f32>(1.0)), c.sum);
}
