// provides: Words, piece_sum
// needs: quant_pieces (Piece), columns/float_32 (Columns), block_scale (scale_zero_of),
//   affine (block_sum), nibbles (with_word)
// INT4 weights times float activations, 32 columns (16 bytes of a row) at a time, where PIECE is 32.
alias Words = vec4<u32>;

fn piece_sum(p: Piece, c: Columns) -> f32 {
  let sz = scale_zero_of(p.scale);
  var d = with_word(vec4<f32>(), p.w.x, c.v[0], c.v[1]);
  d = with_word(d, p.w.y, c.v[2], c.v[3]);
  d = with_word(d, p.w.z, c.v[4], c.v[5]);
  d = with_word(d, p.w.w, c.v[6], c.v[7]);
  return block_sum(sz, dot(d, vec4<f32>(1.0)), c.sum);
}
