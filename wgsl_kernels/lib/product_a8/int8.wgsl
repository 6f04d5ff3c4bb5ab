// provides: PIECE, PIECES, X_VECTORS, Quants, Activations, Columns, activations_at, prepared, quants_at, product
// needs: affine (scaled, block_sum), x_a8 (x_words, x_scale, add_squares), sum_bytes (sum_bytes),
//   from_bits (from_bits, FIRST_BITS)
// INT8 weights times INT8 activations, 16 columns at a time: lanes side by side read 16 bytes side by side.
const PIECE: u32 = 16u;
const PIECES: u32 = X_GROUPS * 2u;
const X_VECTORS: u32 = 1u;
const ROW_PIECES: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / 16u;
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;
alias Quants = vec4<u32>;
struct Activations { v: array<vec4<u32>, X_VECTORS>, scale: f32 }
struct Columns { v: array<vec4<u32>, X_VECTORS>, facts: vec4<f32> }  // facts: the scale, the sum of the quants

fn activations_at(token: u32, piece: u32) -> Activations {
  return Activations(array<vec4<u32>, 1>(x_words(token, piece)), x_scale(token, piece / 2u));
}
fn prepared(x: Activations, piece: u32) -> Columns {
  if ((piece & 1u) == 0u) { add_squares(piece / 2u); }
  return Columns(x.v, vec4<f32>(x.scale, f32(sum_bytes(x.v[0])), 0.0, 0.0));
}
fn quants_at(row: u32, piece: u32) -> Quants { return quants[row * ROW_PIECES + piece]; }
fn product(w: Quants, sz: vec2<f32>, c: Columns) -> f32 {
  let a = c.v[0];
  let d = FIRST_BITS + dot4I8Packed(w.x, a.x) + dot4I8Packed(w.y, a.y) + dot4I8Packed(w.z, a.z) + dot4I8Packed(w.w, a.w);
  return block_sum(scaled(sz, c.facts.x), from_bits(d), c.facts.y);
}
