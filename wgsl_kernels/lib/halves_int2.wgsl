// INT2 weights times f16 activations, 32 columns (8 bytes of a row) at a time; conversion as in halves.wgsl.
const PIECE: u32 = 32u;
const PIECES: u32 = (COLUMNS + 31u) / 32u;
const ROW_PIECES: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / 32u;
@group(0) @binding(1) var<storage, read> quants: array<vec2<u32>>;
struct Piece { w: vec2<u32>, scale: BlockScale }
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
    vec4<f16>(o[0].a.x, o[1].a.x, o[0].a.y, o[1].a.y), vec4<f16>(o[0].a.z, o[1].a.z, o[0].a.w, o[1].a.w),
    vec4<f16>(o[0].b.x, o[1].b.x, o[0].b.y, o[1].b.y), vec4<f16>(o[0].b.z, o[1].b.z, o[0].b.w, o[1].b.w),
    vec4<f16>(o[2].a.x, o[3].a.x, o[2].a.y, o[3].a.y), vec4<f16>(o[2].a.z, o[3].a.z, o[2].a.w, o[3].a.w),
    vec4<f16>(o[2].b.x, o[3].b.x, o[2].b.y, o[3].b.y), vec4<f16>(o[2].b.z, o[3].b.z, o[2].b.w, o[3].b.w)), sum);
}
fn piece_at(row: u32, piece: u32) -> Piece {
  return Piece(quants[row * ROW_PIECES + piece], block_scale_at(row, piece * PIECE / BLOCK));
}
// (q - 2) / 4 of columns 0, 8, 1 and 9 of a word, and of 2, 10, 3 and 11.
fn quads(word: u32) -> vec4<f16> {
  return halves_of((vec2<u32>(word) & vec2<u32>(0x00030003u, 0x000c000cu)) | HALF_BITS)
       * vec4<f16>(0.25h, 0.25h, 0.0625h, 0.0625h) - vec4<f16>(256.5h, 256.5h, 64.5h, 64.5h);
}
fn next_quads(word: u32) -> vec4<f16> {
  return halves_of((vec2<u32>(word) & vec2<u32>(0x00300030u, 0x00c000c0u)) | HALF_BITS)
       * vec4<f16>(0.015625h, 0.015625h, 0.00390625h, 0.00390625h) - vec4<f16>(16.5h, 16.5h, 4.5h, 4.5h);
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  let d = quads(p.w.x) * c.v[0] + next_quads(p.w.x) * c.v[1] + quads(p.w.x >> 8u) * c.v[2] + next_quads(p.w.x >> 8u) * c.v[3]
        + quads(p.w.y) * c.v[4] + next_quads(p.w.y) * c.v[5] + quads(p.w.y >> 8u) * c.v[6] + next_quads(p.w.y >> 8u) * c.v[7];
  return from_sums(p.scale, 4.0 * dot(vec4<f32>(d), vec4<f32>(1.0)), c.sum);
}
