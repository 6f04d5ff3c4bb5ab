// f32 weights: a row is COLUMNS padded to whole groups of 32.
const GROUPS: u32 = (COLUMNS + 31u) / 32u;
@group(0) @binding(1) var<storage, read> values: array<vec4<f32>>;
alias Packed = array<vec4<f32>, 8>;

fn load_packed(row: u32, group: u32) -> Packed {
  let i = (row * GROUPS + group) * 8u;
  return Packed(values[i], values[i + 1u], values[i + 2u], values[i + 3u],
                values[i + 4u], values[i + 5u], values[i + 6u], values[i + 7u]);
}
fn octet(p: Packed, i: u32) -> Octet { return Octet(p[2u * i], p[2u * i + 1u]); }
fn load_octet(row: u32, index: u32) -> Octet {
  let i = (row * GROUPS * 4u + index) * 2u;
  return Octet(values[i], values[i + 1u]);
}
