// provides: LORA_FOURS, LowQuads, lora_x, lora_b_at, low_part, low_quads, low_rank
// needs: row_state (row_of)
// What the adapter of a token's sequence adds to a row of a product, B (A x), four columns of its rank at a time.
//
// `lora_x` is A x of each token, the matrices of a group side by side, as LORA_SLICES slices that are to be added up;
// `lora_b` the rows of B, adapter after adapter. Rows from LORA_SECOND and LORA_THIRD on are of the group's next matrices.
@group(0) @binding(9) var<storage, read> lora_x: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read> lora_b: array<vec4<f32>>;
const LORA_FOURS: u32 = LORA_RANK / 4u;
struct LowQuads { x: vec4<f32>, b: vec4<f32> }

fn low_part(row: u32) -> u32 { return LORA_PART + u32(row >= LORA_SECOND) + u32(row >= LORA_THIRD); }

// Four columns of a row of B, of a token that has an adapter.
fn lora_b_at(token: u32, row: u32, i: u32) -> vec4<f32> {
  return lora_b[((row_of(token).real - 2u) * LORA_ROWS + LORA_FIRST + row) * LORA_FOURS + i];
}

// Four columns of A x and of a row of B; zeros without an adapter.
fn low_quads(token: u32, row: u32, i: u32) -> LowQuads {
  var quads: LowQuads;
  if (row_of(token).real > 1u) {  // 1 without one
    for (var slice = 0u; slice < LORA_SLICES; slice++) {
      let first = (token * LORA_SLICES + slice) * (LORA_WIDTH / LORA_SLICES / 4u);
      quads.x += lora_x[first + low_part(row) * LORA_FOURS + i];
    }
    quads.b = lora_b_at(token, row, i);
  }
  return quads;
}

fn low_rank(token: u32, row: u32) -> f32 {
  var sum = 0.0;
  for (var i = 0u; i < LORA_FOURS; i++) {
    let quads = low_quads(token, row, i);
    sum += dot(quads.x, quads.b);
  }
  return sum;
}
