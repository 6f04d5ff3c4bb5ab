// provides: GROUPS, load_octet
// needs: octet (Octet)
// f32 weights: a row is COLUMNS padded to whole groups of 32.
const GROUPS: u32 = (COLUMNS + 31u) / 32u;
@group(0) @binding(1) var<storage, read> values: array<vec4<f32>>;
fn load_octet(row: u32, index: u32) -> Octet {
  let i = (row * GROUPS * 4u + index) * 2u;
  return Octet(values[i], values[i + 1u]);
}
