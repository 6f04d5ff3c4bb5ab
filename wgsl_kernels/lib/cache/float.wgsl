// provides: PIECE, PIECES, Raw, Piece, raw_at, piece_of, quad_at, scale_at, SCALED, to_places, from_places
// The key/value cache in f32 or f16. A row is a position of one head; a piece of it is what one load takes: a quad, four
// dimensions.
@group(0) @binding(1) var<storage, read> kv: array<vec4<kv_type>>;
const PIECE: u32 = 1u;  // quads of a piece
const PIECES: u32 = HEAD_DIM / 4u;
const SCALED: bool = false;  // whether rows have scales
alias Raw = vec4<kv_type>;
alias Piece = array<vec4<f32>, PIECE>;

fn raw_at(row: u32, piece: u32) -> Raw { return kv[row * PIECES + piece]; }
fn piece_of(raw: Raw) -> Piece { return Piece(vec4<f32>(raw)); }
fn quad_at(row: u32, quad: u32) -> vec4<f32> { return vec4<f32>(kv[row * PIECES + quad]); }
fn scale_at(row: u32) -> f32 { return 1.0; }
fn to_places(query: vec4<f32>) -> vec4<f32> { return query; }
fn from_places(sums: vec4<f32>) -> vec4<f32> { return sums; }
