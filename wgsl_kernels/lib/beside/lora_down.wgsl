// provides: BESIDE, compute_beside
// needs: x (x4), state (Rows), team_sums (SUMS), add_up (add_up, sum_of)
// A x of the adapter that a token's sequence has, by workgroups of their own in front of those of the product that reads
// x too: a row each, in less time than the product takes. A is of f32. More loads at once would take registers, which
// are those of the product's workgroups too.
@group(0) @binding(8) var<uniform> state: Rows;
@group(0) @binding(9) var<storage, read> lora_a: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read_write> lora_x: array<f32>;
const BESIDE: u32 = RANKS;
const DOWN_QUADS: u32 = (COLUMNS + 3u) / 4u;

fn compute_beside(row: u32, token: u32, thread: u32) {
  let adapter = state[token].real;  // 1 without one
  var sums: array<f32, SUMS>;
  if (adapter > 1u) {
    let a = ((adapter - 2u) * RANKS + row) * (A_PADDED / 4u);
    for (var turn = 0u; turn < (DOWN_QUADS + WORKGROUP - 1u) / WORKGROUP; turn++) {
      let quad = turn * WORKGROUP + thread;
      if (quad >= DOWN_QUADS) { break; }
      sums[0] += dot(lora_a[a + quad], x4(token, quad * 4u));
    }
  }
  add_up(sums, thread);
  if (thread == 0u) {
    var sum = 0.0;
    for (var team = 0u; team < TEAMS; team++) { sum += sum_of(team, 0u); }
    lora_x[token * RANKS + row] = sum;
  }
}
