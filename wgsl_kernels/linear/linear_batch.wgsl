// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) for 2 to 16 tokens: a team of threads computes ROWS_PER_TEAM
// rows of up to BATCH tokens.
//
// As for one token, but a piece of a row, loaded once, is multiplied with the activations of every token of the batch: weights are
// read once a batch instead of once a token. The sums of all tokens stay in registers, which limits the batch.
// needs: pieces (PIECES, Piece, piece_at, prepared, activations_at, piece_sum),
//   batch_sums (SUMS, store_batch)
const TEAM: u32 = WORKGROUP / TEAMS;
const STEPS: u32 = (PIECES + TEAM - 1u) / TEAM;

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
  store_batch(sums, first_token, group_first, thread);
}
