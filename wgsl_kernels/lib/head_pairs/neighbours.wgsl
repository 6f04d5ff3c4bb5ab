// provides: HALF, first_dim, dims_apart, turned
// The pairs of a head that a thread takes at once: dimensions (2i, 2i + 1), which an interleaved rotary embedding turns
// together, and of what it passes (PASSED dimensions behind the first ROTATED) dimensions PASSED / 2 apart.
@group(0) @binding(4) var<storage, read> table: array<f32>;  // [position][cosines, then sines]
const HALF: u32 = HEAD_DIM / 2u;  // pairs of a head
const TURNED: u32 = ROTATED / 2u;  // those that turn
fn passes(pair: u32) -> bool { return PASSED > 0u && pair % HALF >= TURNED; }
fn first_dim(pair: u32) -> u32 { return pair % HALF + select(pair % HALF, TURNED, passes(pair)); }
fn dims_apart(pair: u32) -> u32 { return select(1u, PASSED / 2u, passes(pair)); }
fn turned(pair: u32, position: u32, v: vec2<f32>) -> vec2<f32> {
  if (passes(pair)) { return v; }
  let angle = min(position, POSITIONS - 1u) * ROTATED + pair % HALF;
  let c = table[angle];
  let s = table[angle + TURNED];
  return vec2<f32>(v.x * c - v.y * s, v.y * c + v.x * s);
}
