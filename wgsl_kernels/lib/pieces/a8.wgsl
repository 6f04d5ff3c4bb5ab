// provides: PIECES, Piece, Activations, activations_at, prepared, piece_at, piece_sum
// needs: packed (Packed, packed_at, unpacked), block_scale (BlockScale, block_scale_at, scale_zero_of),
//   affine (scaled, block_sum), x_a8 (x_words, x_scale, add_squares), sum_bytes (sum_bytes)
// INT8 activations, 32 columns at a time: words in the order that the weight format asks for, and their scale.
const PIECE: u32 = 32u;
const PIECES: u32 = X_GROUPS;
struct Piece { w: Packed, scale: BlockScale }
struct Activations { a: vec4<u32>, b: vec4<u32>, scale: f32 }
struct Columns { a: vec4<u32>, b: vec4<u32>, scale: f32, sum: f32 }

fn activations_at(token: u32, piece: u32) -> Activations {
  return Activations(x_words(token, piece * 2u), x_words(token, piece * 2u + 1u), x_scale(token, piece));
}
fn prepared(v: Activations, piece: u32) -> Columns {
  add_squares(piece);
  return Columns(v.a, v.b, v.scale, f32(sum_bytes(v.a) + sum_bytes(v.b)));
}
fn piece_at(row: u32, piece: u32) -> Piece {
  return Piece(packed_at(row, piece), block_scale_at(row, piece * PIECE / BLOCK));
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  let sz = scale_zero_of(p.scale);
  let w = unpacked(p.w);
  let d = dot4I8Packed(w.a.x, c.a.x) + dot4I8Packed(w.a.y, c.a.y) + dot4I8Packed(w.a.z, c.a.z)
        + dot4I8Packed(w.a.w, c.a.w) + dot4I8Packed(w.b.x, c.b.x) + dot4I8Packed(w.b.y, c.b.y)
        + dot4I8Packed(w.b.z, c.b.z) + dot4I8Packed(w.b.w, c.b.w);
  return block_sum(scaled(sz, c.scale), f32(d), c.sum);
}
