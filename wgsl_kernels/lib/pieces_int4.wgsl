// INT4 weights times float activations, 32 columns (16 bytes of a row) at a time, where PIECE is 32.
const PIECES: u32 = (COLUMNS + 31u) / 32u;
const ROW_PIECES: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / 32u;
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;
struct Piece { w: vec4<u32>, scale: BlockScale }
struct Columns { v: array<vec4<f32>, 8>, sum: f32 }

alias Activations = array<vec4<f32>, 8>;

fn activations_at(token: u32, piece: u32) -> Activations {
  let k = piece * PIECE;
  return Activations(x4(token, k), x4(token, k + 4u), x4(token, k + 8u), x4(token, k + 12u),
                              x4(token, k + 16u), x4(token, k + 20u), x4(token, k + 24u), x4(token, k + 28u));
}
fn prepared(x: Activations, piece: u32) -> Columns {
  let k = piece * PIECE;
  let v = Activations(weigh(x[0], k), weigh(x[1], k + 4u), weigh(x[2], k + 8u), weigh(x[3], k + 12u),
                      weigh(x[4], k + 16u), weigh(x[5], k + 20u), weigh(x[6], k + 24u), weigh(x[7], k + 28u));
  return Columns(array<vec4<f32>, 8>(v[0] * PLACES, v[1] * PLACES, v[2] * PLACES, v[3] * PLACES,
                                     v[4] * PLACES, v[5] * PLACES, v[6] * PLACES, v[7] * PLACES),
                 dot(v[0] + v[1] + v[2] + v[3] + v[4] + v[5] + v[6] + v[7], vec4<f32>(1.0)));
}
fn piece_at(row: u32, piece: u32) -> Piece {
  return Piece(quants[row * ROW_PIECES + piece], block_scale_at(row, piece * PIECE / BLOCK));
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  let sz = scale_zero_of(p.scale);
  var d = with_word(vec4<f32>(), p.w.x, c.v[0], c.v[1]);
  d = with_word(d, p.w.y, c.v[2], c.v[3]);
  d = with_word(d, p.w.z, c.v[4], c.v[5]);
  d = with_word(d, p.w.w, c.v[6], c.v[7]);
  return sz.x * (dot(d, vec4<f32>(1.0)) - sz.y * c.sum);
}
