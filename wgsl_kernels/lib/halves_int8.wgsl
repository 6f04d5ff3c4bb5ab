// INT8 weights times f16 activations, 16 columns (16 bytes of a row) at a time; conversion as in halves.wgsl.
const PIECE: u32 = 16u;
const PIECES: u32 = (COLUMNS + 15u) / 16u;
const ROW_PIECES: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / 16u;
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;
struct Piece { w: vec4<u32>, scale: BlockScale }
struct Columns { v: array<vec4<f16>, 4>, sum: f32 }

alias Activations = array<vec4<u32>, 2>;

fn activations_at(token: u32, piece: u32) -> Activations {
  return Activations(x8(token, piece * PIECE), x8(token, piece * PIECE + 8u));
}
fn prepared(x: Activations, piece: u32) -> Columns {
  let o = array<Octet, 2>(weigh8(x[0], piece * PIECE), weigh8(x[1], piece * PIECE + 8u));
  var sum = 0.0;
  if (ZEROS) { sum = sum_octet(o[0]) + sum_octet(o[1]); }
  return Columns(array<vec4<f16>, 4>(o[0].a.xzyw, o[0].b.xzyw, o[1].a.xzyw, o[1].b.xzyw), sum);
}
fn piece_at(row: u32, piece: u32) -> Piece {
  return Piece(quants[row * ROW_PIECES + piece], block_scale_at(row, piece * PIECE / BLOCK));
}
// q / 128 of columns 0, 2, 1 and 3 of a word.
fn quads(word: u32) -> vec4<f16> {
  let unsigned = (vec2<u32>(word, word >> 8u) & vec2<u32>(0x00ff00ffu)) ^ vec2<u32>(0x64806480u);  // 1024 + (q + 128)
  return halves_of(unsigned) * vec4<f16>(0.0078125h) - vec4<f16>(9.0h);
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  let d = quads(p.w.x) * c.v[0] + quads(p.w.y) * c.v[1] + quads(p.w.z) * c.v[2] + quads(p.w.w) * c.v[3];
  return from_sums(p.scale, 128.0 * dot(vec4<f32>(d), vec4<f32>(1.0)), c.sum);
}
