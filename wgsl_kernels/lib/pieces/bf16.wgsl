// provides: PIECES, Piece, Activations, activations_at, prepared, piece_at, piece_sum
// needs: x (x4), weigh (weigh)
// bf16 weights (the upper half of an f32) times float activations, 8 columns (16 bytes of a row) at a time.
const PIECE: u32 = 8u;
const PIECES: u32 = (COLUMNS + 7u) / 8u;
const ROW_PIECES: u32 = (COLUMNS + 31u) / 32u * 4u;
@group(0) @binding(1) var<storage, read> values: array<vec4<u32>>;
alias Piece = vec4<u32>;
alias Columns = array<vec4<f32>, 2>;
alias Activations = Columns;

fn activations_at(token: u32, piece: u32) -> Columns {
  return Columns(x4(token, piece * PIECE), x4(token, piece * PIECE + 4u));
}
fn wide(a: u32, b: u32) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u));
}
fn prepared(v: Columns, piece: u32) -> Columns {
  return Columns(weigh(v[0], piece * PIECE), weigh(v[1], piece * PIECE + 4u));
}
fn piece_at(row: u32, piece: u32) -> Piece { return values[row * ROW_PIECES + piece]; }
fn piece_sum(w: Piece, v: Columns) -> f32 {
  return dot(wide(w.x, w.y), v[0]) + dot(wide(w.z, w.w), v[1]);
}
