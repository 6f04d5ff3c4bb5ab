// provides: PIECE, PIECES, Raw, Piece, raw_at, piece_of, quad_at, scale_at, SCALED
// needs: cache_bytes (bytes, from_places)
// The key/value cache in INT8. A row is a position of one head, with one scale; a piece of it is what one load takes:
// 8 bytes, two quads of dimensions.
@group(0) @binding(1) var<storage, read> kv: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read> kv_scales: array<f32>;
const PIECE: u32 = 2u;  // quads of a piece
const PIECES: u32 = WORDS / 2u;
const SCALED: bool = true;  // whether rows have scales
alias Raw = vec2<u32>;
alias Piece = array<vec4<f32>, PIECE>;

fn raw_at(row: u32, piece: u32) -> Raw { return kv[row * PIECES + piece]; }
fn piece_of(raw: Raw) -> Piece { return Piece(bytes(raw.x), bytes(raw.y)); }
fn quad_at(row: u32, quad: u32) -> vec4<f32> { return from_places(bytes(kv[row * PIECES + quad / 2u][quad % 2u])); }
fn scale_at(row: u32) -> f32 { return kv_scales[row]; }
