// INT4 weights times f16 activations, 32 columns (16 bytes of a row) at a time, where PIECE is 32.
const PIECES: u32 = (COLUMNS + 31u) / 32u;
const ROW_PIECES: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / 32u;
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;
struct Piece { w: vec4<u32>, scale: BlockScale }
struct Columns { v: array<vec4<f16>, 8>, sum: f32 }

alias Activations = array<vec4<u32>, 4>;

fn activations_at(token: u32, piece: u32) -> Activations {
  let k = piece * PIECE;
  return Activations(x8(token, k), x8(token, k + 8u), x8(token, k + 16u), x8(token, k + 24u));
}
fn prepared(x: Activations, piece: u32) -> Columns {
  let k = piece * PIECE;
  let o = array<Octet, 4>(weigh8(x[0], k), weigh8(x[1], k + 8u), weigh8(x[2], k + 16u), weigh8(x[3], k + 24u));
  var sum = 0.0;
  if (ZEROS) { sum = sum_octet(o[0]) + sum_octet(o[1]) + sum_octet(o[2]) + sum_octet(o[3]); }
  return Columns(array<vec4<f16>, 8>(
    low_columns(o[0]), high_columns(o[0]), low_columns(o[1]), high_columns(o[1]),
    low_columns(o[2]), high_columns(o[2]), low_columns(o[3]), high_columns(o[3])), sum);
}
fn piece_at(row: u32, piece: u32) -> Piece {
  return Piece(quants[row * ROW_PIECES + piece], block_scale_at(row, piece * PIECE / BLOCK));
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  var d = with_word(vec4<f16>(), p.w.x, c.v[0], c.v[1]);
  d = with_word(d, p.w.y, c.v[2], c.v[3]);
  d = with_word(d, p.w.z, c.v[4], c.v[5]);
  d = with_word(d, p.w.w, c.v[6], c.v[7]);
  return from_sums(p.scale, 16.0 * dot(vec4<f32>(d), vec4<f32>(1.0)), c.sum);
}
