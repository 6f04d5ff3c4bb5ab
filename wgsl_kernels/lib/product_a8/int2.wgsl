// provides: PIECE, PIECES, X_VECTORS, Quants, Activations, Columns, activations_at, prepared, quants_at, product
// needs: affine (block_sum), x_a8 (x_words, x_scale), sum_bytes (sum_bytes),
//   from_bits (from_bits, FIRST_BITS)
// INT2 weights times INT8 activations, 64 columns at a time: 16 bytes of a row a load, as for the wider formats. With
// 32 columns (lib/pieces/a8), loads of 8 bytes and what every piece costs take 10.2 instead of 9.7 us at 14336x4096
// (H100). Blocks and rows of activations are whole numbers of pieces; order of words as in lib/packed/int2.wgsl.
//
// Bits 2 to 5 of a byte are multiplied where they stand, as 4 and 16 times the weight, and sums shifted between them: two
// shifts fewer a word. They count in sixteenths.
const PIECE: u32 = 64u;
const PIECES: u32 = X_GROUPS / 2u;
const X_VECTORS: u32 = 4u;
const ROW_PIECES: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / 64u;
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;
alias Quants = vec4<u32>;
struct Activations { v: array<vec4<u32>, X_VECTORS>, scale: vec2<f32> }
// facts: sixteenths of both scales, the sum of the activations
struct Columns { v: array<vec4<u32>, X_VECTORS>, facts: vec4<f32> }

fn activations_at(token: u32, piece: u32) -> Activations {
  let i = piece * 4u;
  return Activations(
    array<vec4<u32>, 4>(x_words(token, i), x_words(token, i + 1u), x_words(token, i + 2u), x_words(token, i + 3u)),
    vec2<f32>(x_scale(token, piece * 2u), x_scale(token, piece * 2u + 1u)));
}
fn prepared(x: Activations) -> Columns {
  let sums = vec2<f32>(f32(sum_bytes(x.v[0]) + sum_bytes(x.v[1])), f32(sum_bytes(x.v[2]) + sum_bytes(x.v[3])));
  return Columns(x.v, vec4<f32>(x.scale * 0.0625, dot(x.scale, sums), 0.0));
}
fn quants_at(row: u32, piece: u32) -> Quants { return quants[row * ROW_PIECES + piece]; }
// 16 times the products of 32 columns, as a float.
fn dot_words(w: vec2<u32>, a: vec4<u32>, b: vec4<u32>) -> f32 {
  let ones = w & vec2<u32>(0x03030303u);
  let fours = w & vec2<u32>(0x0c0c0c0cu);
  let sixteens = w & vec2<u32>(0x30303030u);
  let last = (w >> vec2<u32>(6u)) & vec2<u32>(0x03030303u);
  var d = FIRST_BITS / 16 + dot4I8Packed(ones.x, a.x) + dot4I8Packed(ones.y, b.x)
        + dot4I8Packed(last.x, a.w) + dot4I8Packed(last.y, b.w);
  d = (d << 2u) + dot4I8Packed(fours.x, a.y) + dot4I8Packed(fours.y, b.y);
  d = (d << 2u) + dot4I8Packed(sixteens.x, a.z) + dot4I8Packed(sixteens.y, b.z);
  return from_bits(d);
}
fn product(w: Quants, sz: vec2<f32>, c: Columns) -> f32 {
  let dots = vec2<f32>(dot_words(w.xy, c.v[0], c.v[1]), dot_words(w.zw, c.v[2], c.v[3]));
  return block_sum(sz, dot(c.facts.xy, dots), c.facts.z);
}
