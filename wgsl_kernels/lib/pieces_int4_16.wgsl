// INT4 weights times float activations, 16 columns (8 bytes of a row), where PIECE is 16: threads side by side then read
// activations that lie half as far apart as with pieces_int4.wgsl. Where these are f32 that counts for more than loads of
// 16 bytes: 18 to 20% (H100); a CPU loses as much.
const PIECES: u32 = (COLUMNS + 15u) / 16u;
const ROW_PIECES: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / 16u;
@group(0) @binding(1) var<storage, read> quants: array<vec2<u32>>;
struct Piece { w: vec2<u32>, scale: BlockScale }
struct Columns { v: array<vec4<f32>, 4>, sum: f32 }

alias Activations = array<vec4<f32>, 4>;

fn activations_at(token: u32, piece: u32) -> Activations {
  let k = piece * PIECE;
  return Activations(x4(token, k), x4(token, k + 4u), x4(token, k + 8u), x4(token, k + 12u));
}
fn prepared(x: Activations, piece: u32) -> Columns {
  let k = piece * PIECE;
  let v = Activations(weigh(x[0], k), weigh(x[1], k + 4u), weigh(x[2], k + 8u), weigh(x[3], k + 12u));
  return Columns(array<vec4<f32>, 4>(v[0] * PLACES, v[1] * PLACES, v[2] * PLACES, v[3] * PLACES),
                 dot(v[0] + v[1] + v[2] + v[3], vec4<f32>(1.0)));
}
fn piece_at(row: u32, piece: u32) -> Piece {
  return Piece(quants[row * ROW_PIECES + piece], block_scale_at(row, piece * PIECE / BLOCK));
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  let sz = scale_zero_of(p.scale);
  let d = with_word(with_word(vec4<f32>(), p.w.x, c.v[0], c.v[1]), p.w.y, c.v[2], c.v[3]);
  return sz.x * (dot(d, vec4<f32>(1.0)) - sz.y * c.sum);
}
