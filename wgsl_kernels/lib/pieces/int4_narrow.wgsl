// provides: Words, piece_sum
// needs: quant_pieces (Piece), columns/float_16 (Columns), block_scale (scale_zero_of),
//   affine (block_sum), nibbles (with_word)
// INT4 weights times float activations, 16 columns (8 bytes of a row), where PIECE is 16: threads side by side then read
// activations that lie half as far apart as in int4.wgsl. Where these are f32 that counts for more than loads of 16
// bytes: 18 to 20% (H100). A software adapter has fewer sums and columns to keep: a third (llvmpipe).
alias Words = vec2<u32>;

fn piece_sum(p: Piece, c: Columns) -> f32 {
  let sz = scale_zero_of(p.scale);
  let d = with_word(with_word(vec4<f32>(), p.w.x, c.v[0], c.v[1]), p.w.y, c.v[2], c.v[3]);
  return block_sum(sz, dot(d, vec4<f32>(1.0)), c.sum);
}
