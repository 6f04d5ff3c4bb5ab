// INT8 activations, 32 columns at a time: words in the order that the weight format asks for, and their scale.
const PIECE: u32 = 32u;
const PIECES: u32 = X_GROUPS;
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(7) var<storage, read> x_scales: array<f32>;
struct Piece { w: Packed, scale: BlockScale }
struct Columns { a: vec4<u32>, b: vec4<u32>, scale: f32, sum: f32 }

fn columns_at(token: u32, piece: u32) -> Columns {
  let at = token * X_GROUPS + piece;
  let a = x[at * 2u];
  let b = x[at * 2u + 1u];
  return Columns(a, b, x_scales[at], f32(sum_bytes(a) + sum_bytes(b)));
}
fn piece_at(row: u32, piece: u32) -> Piece {
  return Piece(packed_at(row, piece), block_scale_at(row, piece * PIECE / BLOCK));
}
fn piece_sum(p: Piece, c: Columns) -> f32 {
  let so = scale_offset_of(p.scale);
  let w = unpacked(p.w);
  let d = dot4I8Packed(w.a.x, c.a.x) + dot4I8Packed(w.a.y, c.a.y) + dot4I8Packed(w.a.z, c.a.z)
        + dot4I8Packed(w.a.w, c.a.w) + dot4I8Packed(w.b.x, c.b.x) + dot4I8Packed(w.b.y, c.b.y)
        + dot4I8Packed(w.b.z, c.b.z) + dot4I8Packed(w.b.w, c.b.w);
  return c.scale * (so.x * f32(d) + so.y * c.sum);
}
