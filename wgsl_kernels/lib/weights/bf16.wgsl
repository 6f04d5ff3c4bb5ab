// provides: GROUPS, load_octet
// needs: octet (Octet)
// bf16 weights (the upper half of an f32), two a word: a row is COLUMNS padded to whole groups of 32.
const GROUPS: u32 = (COLUMNS + 31u) / 32u;
@group(0) @binding(1) var<storage, read> values: array<vec4<u32>>;

fn wide(word: u32) -> vec2<f32> { return bitcast<vec2<f32>>(vec2<u32>(word << 16u, word & 0xffff0000u)); }
fn halves(words: vec4<u32>) -> Octet {
  return Octet(vec4<f32>(wide(words.x), wide(words.y)), vec4<f32>(wide(words.z), wide(words.w)));
}

fn load_octet(row: u32, index: u32) -> Octet { return halves(values[row * GROUPS * 4u + index]); }
