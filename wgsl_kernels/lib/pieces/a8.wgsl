// provides: Piece, piece_at, piece_sum
// needs: product_a8 (PIECE, Quants, Columns, quants_at, product),
//   block_scale (BlockScale, block_scale_at, scale_zero_of)
// Integer weights times INT8 activations (lib/product_a8), a piece of a row with its block's scale.
struct Piece { w: Quants, scale: BlockScale }

fn piece_at(row: u32, piece: u32) -> Piece {
  return Piece(quants_at(row, piece), block_scale_at(row, piece * PIECE / BLOCK));
}
fn piece_sum(p: Piece, c: Columns) -> f32 { return product(p.w, scale_zero_of(p.scale), c); }
