// provides: low_rank
// needs: row_state (row_of)
// What the adapter of a token's sequence adds to a row of a product, B (A x): a number for each four of its rank is a
// lane's, so that a team adds it up with the product's own sums, and loads it beside the weights.
//
// `lora_x` is A x of each token, the matrices of a group side by side; `lora_b` the rows of B, adapter after adapter. Rows
// from LORA_SECOND and LORA_THIRD on are of the group's next matrices.
@group(0) @binding(9) var<storage, read> lora_x: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read> lora_b: array<vec4<f32>>;
const LORA_FOURS: u32 = LORA_RANK / 4u;

fn low_rank(token: u32, row: u32, lane: u32, lanes: u32) -> f32 {
  let adapter = row_of(token).real;  // 1 without one
  if (adapter < 2u) { return 0.0; }
  let part = LORA_PART + u32(row >= LORA_SECOND) + u32(row >= LORA_THIRD);
  let a = token * (LORA_WIDTH / 4u) + part * LORA_FOURS;
  let b = ((adapter - 2u) * LORA_ROWS + LORA_FIRST + row) * LORA_FOURS;
  var sum = 0.0;
  for (var i = lane; i < LORA_FOURS; i += lanes) { sum += dot(lora_x[a + i], lora_b[b + i]); }
  return sum;
}
