// provides: PIECES, Piece, Activations, activations_at, prepared, piece_at, piece_sum
// needs: x (x4), weigh (weigh)
// f32 weights times float activations, 4 columns (16 bytes of a row) at a time.
const PIECE: u32 = 4u;
const PIECES: u32 = (COLUMNS + 3u) / 4u;
const ROW_PIECES: u32 = (COLUMNS + 31u) / 32u * 8u;
@group(0) @binding(1) var<storage, read> values: array<vec4<f32>>;
alias Piece = vec4<f32>;
alias Columns = vec4<f32>;
alias Activations = Columns;

fn activations_at(token: u32, piece: u32) -> Columns { return x4(token, piece * PIECE); }
fn prepared(v: Columns, piece: u32) -> Columns { return weigh(v, piece * PIECE); }
fn piece_at(row: u32, piece: u32) -> Piece { return values[row * ROW_PIECES + piece]; }
fn piece_sum(w: Piece, v: Columns) -> f32 { return dot(w, v); }
