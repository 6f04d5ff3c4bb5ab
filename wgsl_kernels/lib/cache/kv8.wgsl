// provides: PIECE, PIECES, Raw, Piece, raw_at, piece_of, quad_at, scale_at, SCALED
// needs: cache_bytes (bytes, from_places)
// The key/value cache in INT8. A row is a position of one head, with one scale; a piece of it is what one load takes:
// 16 bytes, four quads of dimensions.
@group(0) @binding(1) var<storage, read> kv: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> kv_scales: array<f32>;
const PIECE: u32 = 4u;  // quads of a piece
const PIECES: u32 = WORDS / 4u;
const SCALED: bool = true;  // whether rows have scales
alias Raw = vec4<u32>;
alias Piece = array<vec4<f32>, PIECE>;

fn raw_at(row: u32, piece: u32) -> Raw { return kv[row * PIECES + piece]; }
fn piece_of(raw: Raw) -> Piece { return Piece(bytes(raw.x), bytes(raw.y), bytes(raw.z), bytes(raw.w)); }
fn quad_at(row: u32, quad: u32) -> vec4<f32> { return from_places(bytes(kv[row * PIECES + quad / 4u][quad % 4u])); }
fn scale_at(row: u32) -> f32 { return kv_scales[row]; }
