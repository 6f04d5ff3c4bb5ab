// provides: PIECES, Piece, Activations, activations_at, prepared, piece_at, piece_sum
// needs: block_scale (BlockScale, block_scale_at, scale_zero_of), affine (scaled, block_sum),
//   x_a8 (x_words, x_scale, add_squares), sum_bytes (sum_bytes), from_bits (from_bits, FIRST_BITS)
// INT8 weights times INT8 activations, 16 columns at a time: lanes side by side read 16 bytes of a row side by side, where
// those of a8.wgsl read 32. Scales are read twice as often.
const PIECE: u32 = 16u;
const PIECES: u32 = X_GROUPS * 2u;
const ROW_PIECES: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / 16u;
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;
struct Piece { w: vec4<u32>, scale: BlockScale }
struct Activations { v: vec4<u32>, scale: f32 }
struct Columns { v: vec4<u32>, scale: f32, sum: f32 }

fn activations_at(token: u32, piece: u32) -> Activations {
  return Activations(x_words(token, piece), x_scale(token, piece / 2u));
}
fn prepared(x: Activations, piece: u32) -> Columns {
  if ((piece & 1u) == 0u) { add_squares(piece / 2u); }
  return Columns(x.v, x.scale, f32(sum_bytes(x.v)));
}
fn piece_at(row: u32, piece: u32) -> Piece {
  return Piece(quants[row * ROW_PIECES + piece], block_scale_at(row, piece * PIECE / BLOCK));
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  let d = FIRST_BITS + dot4I8Packed(p.w.x, c.v.x) + dot4I8Packed(p.w.y, c.v.y) + dot4I8Packed(p.w.z, c.v.z)
        + dot4I8Packed(p.w.w, c.v.w);
  return block_sum(scaled(scale_zero_of(p.scale), c.scale), from_bits(d), c.sum);
}
