// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) for 2 to 16 tokens: a team of threads computes ROWS_PER_TEAM
// rows of up to BATCH tokens.
//
// As for one token, but a piece of a row, loaded once, is multiplied with the activations of every token of the batch: weights are
// read once a batch instead of once a token. The sums of all tokens stay in registers, which limits the batch.
// needs: pieces (PIECES, Piece, piece_at, prepared, activations_at, piece_sum), add_up (add_up, sum_of),
//   low_sums (low_ahead, add_low, low_sum), residual (with_residual), bias (bias_at)
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

const TEAM: u32 = WORKGROUP / TEAMS;
const STEPS: u32 = (PIECES + TEAM - 1u) / TEAM;
const SUMS: u32 = ROWS_PER_TEAM * BATCH;
const LOW_SUMS: u32 = TEAMS * SUMS;

// Token and row of the workgroup's sum i, which may lie behind the last ones.
fn place(first_token: u32, group_first: u32, i: u32) -> vec2<u32> {
  return vec2<u32>(first_token + i % SUMS / ROWS_PER_TEAM, group_first + i / SUMS * ROWS_PER_TEAM + i % ROWS_PER_TEAM);
}
fn low_place(token: u32, first: u32, slot: u32) -> vec2<u32> {
  return min(place(token, first, slot), vec2<u32>(TOKENS - 1u, ROWS - 1u));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let first_token = id.y * BATCH;
  let group_first = (id.x + id.z * 32768u) * TEAMS * ROWS_PER_TEAM;
  let first = group_first + thread / TEAM * ROWS_PER_TEAM;
  var sums: array<f32, SUMS>;
  for (var step = 0u; step < STEPS; step++) {
    let piece = step * TEAM + thread % TEAM;
    if (PIECES % TEAM == 0u || piece < PIECES) {
      var loaded: array<Piece, ROWS_PER_TEAM>;
      for (var i = 0u; i < ROWS_PER_TEAM; i++) { loaded[i] = piece_at(min(first + i, ROWS - 1u), piece); }
      for (var t = 0u; t < BATCH; t++) {
        let v = prepared(activations_at(min(first_token + t, TOKENS - 1u), piece), piece);
        for (var i = 0u; i < ROWS_PER_TEAM; i++) { sums[t * ROWS_PER_TEAM + i] += piece_sum(loaded[i], v); }
      }
    }
  }
  add_low(low_ahead(first_token, group_first, thread), first_token, group_first, thread);
  add_up(sums, thread);
  for (var turn = 0u; turn < (TEAMS * SUMS + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= TEAMS * SUMS) { break; }
    let at = place(first_token, group_first, i);
    if (at.x < TOKENS && at.y < ROWS) {
      let index = at.x * OUT_ROWS + ROW_OFFSET + at.y;
      y[index] = y_type(with_residual(sum_of(i / SUMS, i % SUMS) + low_sum(i) + bias_at(at.y), index));
    }
  }
}
