// provides: Words, arranged, piece_sum
// needs: columns/half_32 (Octets, Arranged, Columns), nibble_halves (low_columns, high_columns, with_word),
//   quant_pieces (Piece), halves (from_sums)
// INT4 weights times f16 activations, 32 columns (16 bytes of a row) at a time, where PIECE is 32.
alias Words = vec4<u32>;

fn arranged(o: Octets) -> Arranged {
  return Arranged(low_columns(o[0]), high_columns(o[0]), low_columns(o[1]), high_columns(o[1]),
                  low_columns(o[2]), high_columns(o[2]), low_columns(o[3]), high_columns(o[3]));
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  var d = with_word(vec4<f16>(), p.w.x, c.v[0], c.v[1]);
  d = with_word(d, p.w.y, c.v[2], c.v[3]);
  d = with_word(d, p.w.z, c.v[4], c.v[5]);
  d = with_word(d, p.w.w, c.v[6], c.v[7]);
  return from_sums(p.scale, 16.0 * dot(vec4<f32>(d), vec4<f32>(1.0)), c.sum);
}
