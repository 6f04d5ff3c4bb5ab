// provides: PIECE, PIECES, PLACES, Raw, Piece, raw_at, piece_of, quad_at, scale_at
// The key/value cache in INT8. A row is a position of one head, with one scale; a piece of it is what one load takes:
// 8 bytes, two quads of dimensions. Bytes become floats as in lib/magic, without a conversion: PLACES is what the
// components of `piece_of` are too large by, to be multiplied into queries, and into sums of values at the end.
@group(0) @binding(1) var<storage, read> kv: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read> kv_scales: array<f32>;
const PIECE: u32 = 2u;  // quads of a piece
const PIECES: u32 = WORDS / 2u;
const PLACES = vec4<f32>(1.0, 0.00390625, 1.0, 0.00390625);  // 2^0, 2^-8
alias Raw = vec2<u32>;
alias Piece = array<vec4<f32>, PIECE>;

fn raw_at(row: u32, piece: u32) -> Raw { return kv[row * PIECES + piece]; }
fn bytes(word: u32) -> vec4<f32> {
  let unsigned = word ^ 0x80808080u;  // q + 128
  let pairs = vec4<u32>(unsigned, unsigned, unsigned >> 16u, unsigned >> 16u) & vec4<u32>(0xffu, 0xff00u, 0xffu, 0xff00u);
  return bitcast<vec4<f32>>(pairs | vec4<u32>(0x4b000000u)) - vec4<f32>(8388736.0, 8421376.0, 8388736.0, 8421376.0);
}
fn piece_of(raw: Raw) -> Piece { return Piece(bytes(raw.x), bytes(raw.y)); }
fn quad_at(row: u32, quad: u32) -> vec4<f32> { return bytes(kv[row * PIECES + quad / 2u][quad % 2u]) * PLACES; }
fn scale_at(row: u32) -> f32 { return kv_scales[row]; }
