// INT8 weights times float activations, 16 columns (16 bytes of a row) at a time; conversion as in magic.wgsl.
const PIECE: u32 = 16u;
const PIECES: u32 = (COLUMNS + 15u) / 16u;
const ROW_PIECES: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / 16u;
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;
struct Piece { w: vec4<u32>, scale: BlockScale }
struct Columns { v: array<vec4<f32>, 4>, sum: f32 }

const PLACES = vec4<f32>(1.0, 0.00390625, 1.0, 0.00390625);  // 2^0, 2^-8

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
fn bytes(word: u32) -> vec4<f32> {
  let unsigned = word ^ 0x80808080u;  // q + 128
  let pairs = vec4<u32>(unsigned, unsigned, unsigned >> 16u, unsigned >> 16u) & vec4<u32>(0xffu, 0xff00u, 0xffu, 0xff00u);
  return bitcast<vec4<f32>>(pairs | MAGIC_BITS) - (MAGIC + vec4<f32>(128.0, 32768.0, 128.0, 32768.0));
}
fn piece_at(row: u32, piece: u32) -> Piece {
  return Piece(quants[row * ROW_PIECES + piece], block_scale_at(row, piece * PIECE / BLOCK));
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  let sz = scale_zero_of(p.scale);
  let d = bytes(p.w.x) * c.v[0] + bytes(p.w.y) * c.v[1] + bytes(p.w.z) * c.v[2] + bytes(p.w.w) * c.v[3];
  return sz.x * (dot(d, vec4<f32>(1.0)) - sz.y * c.sum);
}
