// provides: PIECES, Piece, Activations, activations_at, prepared, piece_at, piece_sum
// needs: x (x4), weigh (weigh)
// f16 weights times float activations, 8 columns (16 bytes of a row) at a time. Needs no f16 feature.
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
fn prepared(v: Columns, piece: u32) -> Columns {
  return Columns(weigh(v[0], piece * PIECE), weigh(v[1], piece * PIECE + 4u));
}
fn piece_at(row: u32, piece: u32) -> Piece { return values[row * ROW_PIECES + piece]; }
fn piece_sum(w: Piece, v: Columns) -> f32 {
  return dot(vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y)), v[0])
       + dot(vec4<f32>(unpack2x16float(w.z), unpack2x16float(w.w)), v[1]);
}
