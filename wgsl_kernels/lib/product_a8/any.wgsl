// provides: PIECE, PIECES, X_VECTORS, Quants, Activations, Columns, activations_at, prepared, quants_at, product
// needs: packed (Packed, packed_at, unpacked), affine (scaled, block_sum), x_a8 (x_words, x_scale, add_squares),
//   sum_bytes (sum_bytes), from_bits (from_bits, FIRST_BITS)
// INT8 activations, 32 columns at a time: words in the order that the weight format asks for, and their scale.
const PIECE: u32 = 32u;
const PIECES: u32 = X_GROUPS;
const X_VECTORS: u32 = 2u;
alias Quants = Packed;
struct Activations { v: array<vec4<u32>, X_VECTORS>, scale: f32 }
struct Columns { v: array<vec4<u32>, X_VECTORS>, facts: vec4<f32> }  // facts: the scale, the sum of the quants

fn activations_at(token: u32, piece: u32) -> Activations {
  return Activations(array<vec4<u32>, 2>(x_words(token, piece * 2u), x_words(token, piece * 2u + 1u)), x_scale(token, piece));
}
fn prepared(x: Activations, piece: u32) -> Columns {
  add_squares(piece);
  return Columns(x.v, vec4<f32>(x.scale, f32(sum_bytes(x.v[0]) + sum_bytes(x.v[1])), 0.0, 0.0));
}
fn quants_at(row: u32, piece: u32) -> Quants { return packed_at(row, piece); }
fn product(packed: Quants, sz: vec2<f32>, c: Columns) -> f32 {
  let w = unpacked(packed);
  let a = c.v[0];
  let b = c.v[1];
  let d = FIRST_BITS + dot4I8Packed(w.a.x, a.x) + dot4I8Packed(w.a.y, a.y) + dot4I8Packed(w.a.z, a.z)
        + dot4I8Packed(w.a.w, a.w) + dot4I8Packed(w.b.x, b.x) + dot4I8Packed(w.b.y, b.y)
        + dot4I8Packed(w.b.z, b.z) + dot4I8Packed(w.b.w, b.w);
  return block_sum(scaled(sz, c.facts.x), from_bits(d), c.facts.y);
}
