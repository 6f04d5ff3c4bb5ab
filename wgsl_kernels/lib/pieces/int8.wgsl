// provides: PIECE, Words, EVEN_PLACES, ODD_PLACES, piece_sum
// needs: magic (MAGIC_BITS, MAGIC), quant_pieces (Piece), columns/float_16 (Columns), block_scale (scale_zero_of),
//   affine (block_sum)
// INT8 weights times float activations, 16 columns (16 bytes of a row) at a time; conversion as in lib/magic.
const PIECE: u32 = 16u;
alias Words = vec4<u32>;
const EVEN_PLACES = vec4<f32>(1.0, 0.00390625, 1.0, 0.00390625);  // 2^0, 2^-8
const ODD_PLACES = EVEN_PLACES;

fn bytes(word: u32) -> vec4<f32> {
  let unsigned = word ^ 0x80808080u;  // q + 128
  let pairs = vec4<u32>(unsigned, unsigned, unsigned >> 16u, unsigned >> 16u) & vec4<u32>(0xffu, 0xff00u, 0xffu, 0xff00u);
  return bitcast<vec4<f32>>(pairs | MAGIC_BITS) - (MAGIC + vec4<f32>(128.0, 32768.0, 128.0, 32768.0));
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  let sz = scale_zero_of(p.scale);
  let d = bytes(p.w.x) * c.v[0] + bytes(p.w.y) * c.v[1] + bytes(p.w.z) * c.v[2] + bytes(p.w.w) * c.v[3];
  return block_sum(sz, dot(d, vec4<f32>(1.0)), c.sum);
}
