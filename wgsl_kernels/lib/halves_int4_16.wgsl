// As halves_int4.wgsl, 16 columns (8 bytes of a row), where PIECE is 16.
const PIECES: u32 = (COLUMNS + 15u) / 16u;
const ROW_PIECES: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / 16u;
@group(0) @binding(1) var<storage, read> quants: array<vec2<u32>>;
struct Piece { w: vec2<u32>, scale: BlockScale }
struct Columns { v: array<vec4<f16>, 4>, sum: f32 }

alias Activations = array<vec4<u32>, 2>;

fn activations_at(token: u32, piece: u32) -> Activations {
  let k = piece * PIECE;
  return Activations(x8(token, k), x8(token, k + 8u));
}
fn prepared(x: Activations, piece: u32) -> Columns {
  let k = piece * PIECE;
  let o = array<Octet, 2>(weigh8(x[0], k), weigh8(x[1], k + 8u));
  var sum = 0.0;
  if (ZEROS) { sum = sum_octet(o[0]) + sum_octet(o[1]); }
  return Columns(array<vec4<f16>, 4>(low_columns(o[0]), high_columns(o[0]), low_columns(o[1]), high_columns(o[1])), sum);
}
fn piece_at(row: u32, piece: u32) -> Piece {
  return Piece(quants[row * ROW_PIECES + piece], block_scale_at(row, piece * PIECE / BLOCK));
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  let d = with_word(with_word(vec4<f16>(), p.w.x, c.v[0], c.v[1]), p.w.y, c.v[2], c.v[3]);
  return from_sums(p.scale, 16.0 * dot(vec4<f32>(d), vec4<f32>(1.0)), c.sum);
}
