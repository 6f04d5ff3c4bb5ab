// provides: LORA_FOURS, LowQuads, low_quads, low_rank
// needs: row_state (row_of)
// What the adapter of a token's sequence adds to a row of a product, B (A x), four columns of its rank at a time.
//
// `lora_x` is A x of each token, the matrices of a group side by side; `lora_b` the rows of B, adapter after adapter. Rows
// from LORA_SECOND and LORA_THIRD on are of the group's next matrices.
@group(0) @binding(9) var<storage, read> lora_x: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read> lora_b: array<vec4<f32>>;
const LORA_FOURS: u32 = LORA_RANK / 4u;
struct LowQuads { x: vec4<f32>, b: vec4<f32> }

// Four columns of A x and of a row of B; zeros without an adapter.
fn low_quads(token: u32, row: u32, i: u32) -> LowQuads {
  var quads: LowQuads;
  let adapter = row_of(token).real;  // 1 without one
  if (adapter > 1u) {
    let part = LORA_PART + u32(row >= LORA_SECOND) + u32(row >= LORA_THIRD);
    quads.x = lora_x[token * (LORA_WIDTH / 4u) + part * LORA_FOURS + i];
    quads.b = lora_b[((adapter - 2u) * LORA_ROWS + LORA_FIRST + row) * LORA_FOURS + i];
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
