// provides: GROUPS, load_octet
// needs: octet (Octet)
// f16 weights, two a word: a row is COLUMNS padded to whole groups of 32. Needs no f16 feature.
const GROUPS: u32 = (COLUMNS + 31u) / 32u;
@group(0) @binding(1) var<storage, read> values: array<vec4<u32>>;

fn halves(words: vec4<u32>) -> Octet {
  return Octet(vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)),
               vec4<f32>(unpack2x16float(words.z), unpack2x16float(words.w)));
}
fn load_octet(row: u32, index: u32) -> Octet { return halves(values[row * GROUPS * 4u + index]); }
