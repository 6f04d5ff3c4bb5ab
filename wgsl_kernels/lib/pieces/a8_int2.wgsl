// provides: PIECES, Piece, Activations, activations_at, prepared, piece_at, piece_sum
// needs: block_scale (BlockScale, block_scale_at, scale_zero_of), affine (block_sum),
//   x_a8 (x_words, x_scale, add_squares), sum_bytes (sum_bytes)
// INT2 weights times INT8 activations, 64 columns at a time: 16 bytes of a row a load, as for the wider formats. With
// 32 columns (a8.wgsl), loads of 8 bytes and what every piece costs take 10.2 instead of 9.7 us at 14336x4096
// (H100). Blocks and rows of activations are whole numbers of pieces; order of words as in lib/packed/int2.wgsl.
//
// Bits 2 to 5 of a byte are multiplied where they stand, as 4 and 16 times the weight: two shifts fewer a word. A piece
// counts in sixteenths, so its scale of activations is a sixteenth.
const PIECE: u32 = 64u;
const PIECES: u32 = X_GROUPS / 2u;
const ROW_PIECES: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / 64u;
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;
struct Piece { w: vec4<u32>, scale: BlockScale }
struct Activations { v: array<vec4<u32>, 4>, scale: vec2<f32> }
struct Columns { v: array<vec4<u32>, 4>, scale: vec2<f32>, sum: f32 }

fn activations_at(token: u32, piece: u32) -> Activations {
  let i = piece * 4u;
  return Activations(
    array<vec4<u32>, 4>(x_words(token, i), x_words(token, i + 1u), x_words(token, i + 2u), x_words(token, i + 3u)),
    vec2<f32>(x_scale(token, piece * 2u), x_scale(token, piece * 2u + 1u)));
}
fn prepared(a: Activations, piece: u32) -> Columns {
  add_squares(piece * 2u);
  add_squares(piece * 2u + 1u);
  let sums = vec2<f32>(f32(sum_bytes(a.v[0]) + sum_bytes(a.v[1])), f32(sum_bytes(a.v[2]) + sum_bytes(a.v[3])));
  return Columns(a.v, a.scale * 0.0625, dot(a.scale, sums));
}
fn piece_at(row: u32, piece: u32) -> Piece {
  return Piece(quants[row * ROW_PIECES + piece], block_scale_at(row, piece * PIECE / BLOCK));
}
// 16 times the products of 16 columns.
fn dot_word(word: u32, v: vec4<u32>) -> i32 {
  return (dot4I8Packed(word & 0x03030303u, v.x) + dot4I8Packed((word >> 6u) & 0x03030303u, v.w)) * 16
       + dot4I8Packed(word & 0x0c0c0c0cu, v.y) * 4 + dot4I8Packed(word & 0x30303030u, v.z);
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  let sz = scale_zero_of(p.scale);
  let dots = vec2<f32>(f32(dot_word(p.w.x, c.v[0]) + dot_word(p.w.y, c.v[1])),
                       f32(dot_word(p.w.z, c.v[2]) + dot_word(p.w.w, c.v[3])));
  return block_sum(sz, dot(c.scale, dots), c.sum);
}
