// provides: PIECE, Words, EVEN_PLACES, ODD_PLACES, piece_sum
// needs: quant_pieces (Piece), columns/float_32 (Columns), block_scale (scale_zero_of),
//   affine (block_sum), magic (masked)
// INT2 weights times float activations, 32 columns (8 bytes of a row) at a time; conversion as in lib/magic.
const PIECE: u32 = 32u;
alias Words = vec2<u32>;
const LOW = vec4<u32>(0x3u, 0xcu, 0x30u, 0xc0u);
const HIGH = vec4<u32>(0x300u, 0xc00u, 0x3000u, 0xc000u);
const EVEN_PLACES = vec4<f32>(1.0, 0.25, 0.0625, 0.015625);  // 2^0 to 2^-6
const ODD_PLACES = EVEN_PLACES * 0.00390625;                 // 2^-8 to 2^-14

fn piece_sum(p: Piece, c: Columns) -> f32 {
  let sz = scale_zero_of(p.scale);
  let d = masked(p.w.x, LOW) * c.v[0] + masked(p.w.x, HIGH) * c.v[1]
        + masked(p.w.x >> 16u, LOW) * c.v[2] + masked(p.w.x >> 16u, HIGH) * c.v[3]
        + masked(p.w.y, LOW) * c.v[4] + masked(p.w.y, HIGH) * c.v[5]
        + masked(p.w.y >> 16u, LOW) * c.v[6] + masked(p.w.y >> 16u, HIGH) * c.v[7];
  return block_sum(sz, dot(d, vec4<f32>(1.0)), c.sum);
}
