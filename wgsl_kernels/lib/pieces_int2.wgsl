// INT2 weights times float activations, 32 columns (8 bytes of a row) at a time; conversion as in magic.wgsl.
const PIECE: u32 = 32u;
const PIECES: u32 = (COLUMNS + 31u) / 32u;
const ROW_PIECES: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / 32u;
@group(0) @binding(1) var<storage, read> quants: array<vec2<u32>>;
struct Piece { w: vec2<u32>, scale: BlockScale }
struct Columns { v: array<vec4<f32>, 8>, sum: f32 }

const LOW = vec4<u32>(0x3u, 0xcu, 0x30u, 0xc0u);
const HIGH = vec4<u32>(0x300u, 0xc00u, 0x3000u, 0xc000u);
const LOW_PLACES = vec4<f32>(1.0, 0.25, 0.0625, 0.015625);  // 2^0 to 2^-6
const HIGH_PLACES = LOW_PLACES * 0.00390625;                // 2^-8 to 2^-14

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
  return Columns(array<vec4<f32>, 8>(v[0] * LOW_PLACES, v[1] * HIGH_PLACES, v[2] * LOW_PLACES, v[3] * HIGH_PLACES,
                                     v[4] * LOW_PLACES, v[5] * HIGH_PLACES, v[6] * LOW_PLACES, v[7] * HIGH_PLACES),
                 dot(v[0] + v[1] + v[2] + v[3] + v[4] + v[5] + v[6] + v[7], vec4<f32>(1.0)));
}
fn piece_at(row: u32, piece: u32) -> Piece {
  return Piece(quants[row * ROW_PIECES + piece], block_scale_at(row, piece * PIECE / BLOCK));
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  let sz = scale_zero_of(p.scale);
  let d = masked(p.w.x, LOW) * c.v[0] + masked(p.w.x, HIGH) * c.v[1]
        + masked(p.w.x >> 16u, LOW) * c.v[2] + masked(p.w.x >> 16u, HIGH) * c.v[3]
        + masked(p.w.y, LOW) * c.v[4] + masked(p.w.y, HIGH) * c.v[5]
        + masked(p.w.y >> 16u, LOW) * c.v[6] + masked(p.w.y >> 16u, HIGH) * c.v[7];
  return sz.x * (dot(d, vec4<f32>(1.0)) - sz.y * c.sum);
}
