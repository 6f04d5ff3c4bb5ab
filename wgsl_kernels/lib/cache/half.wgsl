// provides: PIECE, PIECES, Raw, Piece, raw_at, piece_of, quad_at, scale_at, SCALED, to_places, from_places
// The key/value cache in f16. A row is a position of one head; a piece of it is what one load takes: 16 bytes, two quads of
// dimensions.
@group(0) @binding(1) var<storage, read> kv: array<vec4<u32>>;
const PIECE: u32 = 2u;  // quads of a piece
const PIECES: u32 = HEAD_DIM / 8u;
const SCALED: bool = false;  // whether rows have scales
alias Raw = vec4<u32>;
alias Piece = array<vec4<f32>, PIECE>;

fn halves(words: vec2<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)); }
fn raw_at(row: u32, piece: u32) -> Raw { return kv[row * PIECES + piece]; }
fn piece_of(raw: Raw) -> Piece { return Piece(halves(raw.xy), halves(raw.zw)); }
fn quad_at(row: u32, quad: u32) -> vec4<f32> {
  let raw = kv[row * PIECES + quad / 2u];
  return halves(select(raw.xy, raw.zw, quad % 2u == 1u));
}
fn scale_at(row: u32) -> f32 { return 1.0; }
fn to_places(query: vec4<f32>) -> vec4<f32> { return query; }
fn from_places(sums: vec4<f32>) -> vec4<f32> { return sums; }
