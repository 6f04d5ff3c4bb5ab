// provides: PIECES, Piece, piece_at
// needs: block_scale (BlockScale, block_scale_at), caller (Words, PIECE)
// A piece of a row of integer weights, PIECE columns: its words and its block's scale.
const PIECES: u32 = (COLUMNS + PIECE - 1u) / PIECE;
const ROW_PIECES: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK / PIECE;
@group(0) @binding(1) var<storage, read> quants: array<Words>;
struct Piece { w: Words, scale: BlockScale }

fn piece_at(row: u32, piece: u32) -> Piece {
  return Piece(quants[row * ROW_PIECES + piece], block_scale_at(row, piece * PIECE / BLOCK));
}
