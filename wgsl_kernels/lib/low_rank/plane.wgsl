// provides: LORA_FOURS, LowQuads, lora_x, lora_b_at, low_part, low_quads, low_rank, has_adapter
// needs: row_state (row_of)
// What the adapter of a token's sequence adds to a row of a product, B (A x), four columns of its rank at a time.
//
// Nothing is loaded only where a token has an adapter, since loads then wait for the state: where it has none, what was
// loaded is not added. Of one adapter not even the place depends on the state.
//
// `lora_x` is A x of each token, the matrices of a group side by side, as LORA_SLICES slices that are to be added up;
// `lora_b` the rows of B, adapter after adapter. Rows from LORA_SECOND and LORA_THIRD on are of the group's next matrices.
@group(0) @binding(9) var<storage, read> lora_x: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read> lora_b: array<vec4<f32>>;
const LORA_FOURS: u32 = LORA_RANK / 4u;
const LORA_ADAPTERS: u32 = LORA_LENGTH / (LORA_ROWS * LORA_RANK);
struct LowQuads { x: vec4<f32>, b: vec4<f32> }

fn has_adapter(token: u32) -> bool { return row_of(token).real > 1u; }

fn low_part(row: u32) -> u32 { return LORA_PART + u32(row >= LORA_SECOND) + u32(row >= LORA_THIRD); }

// Four columns of a row of B.
fn lora_b_at(token: u32, row: u32, i: u32) -> vec4<f32> {
  var above = LORA_FIRST;
  if (LORA_ADAPTERS > 1u) { above += (max(row_of(token).real, 2u) - 2u) * LORA_ROWS; }
  return lora_b[(above + row) * LORA_FOURS + i];
}

// Four columns of A x and of a row of B.
fn low_quads(token: u32, row: u32, i: u32) -> LowQuads {
  var quads: LowQuads;
  for (var slice = 0u; slice < LORA_SLICES; slice++) {
    let first = (token * LORA_SLICES + slice) * (LORA_WIDTH / LORA_SLICES / 4u);
    quads.x += lora_x[first + low_part(row) * LORA_FOURS + i];
  }
  quads.b = lora_b_at(token, row, i);
  return quads;
}

fn low_rank(token: u32, row: u32) -> f32 {
  var sum = 0.0;
  if (!has_adapter(token)) { return sum; }
  for (var i = 0u; i < LORA_FOURS; i++) {
    let quads = low_quads(token, row, i);
    sum += dot(quads.x, quads.b);
  }
  return sum;
}
