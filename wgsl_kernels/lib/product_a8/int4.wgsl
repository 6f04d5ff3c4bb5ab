// provides: PIECE, PIECES, X_VECTORS, Quants, Activations, Columns, activations_at, prepared, quants_at, product
// needs: affine (scaled, block_sum), x_a8 (x_words, x_scale), sum_bytes (sum_bytes),
//   from_bits (from_bits, FIRST_BITS)
// INT4 weights times INT8 activations, 32 columns at a time. Low nibbles of a word are its even columns, high nibbles its odd
// ones, and activations come in that order (lib/packed/int4.wgsl).
//
// High nibbles are multiplied where they stand: with the highest bit turned round they are 16 (q - 8) of a signed byte.
// One operation for four weights where a shift and a mask take two; what the eights lack is counted once for all rows.
const PIECE: u32 = 32u;
const PIECES: u32 = X_GROUPS;
const X_VECTORS: u32 = 2u;
const ROW_PIECES: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / 32u;
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;
alias Quants = vec4<u32>;
struct Activations { v: array<vec4<u32>, X_VECTORS>, scale: f32 }
// facts: a sixteenth of the scale, 16 times the sum of the quants, the bits that a sum begins with
struct Columns { v: array<vec4<u32>, X_VECTORS>, facts: vec4<f32> }

fn activations_at(token: u32, piece: u32) -> Activations {
  return Activations(array<vec4<u32>, 2>(x_words(token, piece * 2u), x_words(token, piece * 2u + 1u)), x_scale(token, piece));
}
fn prepared(x: Activations) -> Columns {
  let a = x.v[0];
  let b = x.v[1];
  let odd = sum_bytes(vec4<u32>(a.y, a.w, b.y, b.w));
  let all = sum_bytes(vec4<u32>(a.x, a.z, b.x, b.z)) + odd;
  return Columns(x.v, vec4<f32>(x.scale * 0.0625, f32(all) * 16.0, bitcast<f32>(FIRST_BITS / 16 + 8 * odd), 0.0));
}
fn quants_at(row: u32, piece: u32) -> Quants { return quants[row * ROW_PIECES + piece]; }
fn product(w: Quants, sz: vec2<f32>, c: Columns) -> f32 {
  let even = w & vec4<u32>(0x0f0f0f0fu);
  let odd = (w ^ vec4<u32>(0x80808080u)) & vec4<u32>(0xf0f0f0f0u);
  let a = c.v[0];
  let b = c.v[1];
  let first = bitcast<i32>(c.facts.z) + dot4I8Packed(even.x, a.x) + dot4I8Packed(even.y, a.z)
            + dot4I8Packed(even.z, b.x) + dot4I8Packed(even.w, b.z);
  let d = (first << 4u) + dot4I8Packed(odd.x, a.y) + dot4I8Packed(odd.y, a.w)
        + dot4I8Packed(odd.z, b.y) + dot4I8Packed(odd.w, b.w);
  return block_sum(scaled(sz, c.facts.x), from_bits(d), c.facts.y);
}
