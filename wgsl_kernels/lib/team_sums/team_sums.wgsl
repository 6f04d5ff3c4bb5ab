// provides: TEAM, SUMS, within, first_pieces, sums_from, team_sums
// needs: pieces (PIECES, activations_at, Piece, piece_at, prepared, piece_sum), extra_sum (EXTRA, extra_sum),
//   caller (weight_row)
// The heart of every product for few tokens: a team of threads multiplies ROWS_PER_TEAM rows, which `weight_row` names,
// with one token's activations; `add_up` and `sum_of` add up what the threads of a team have.
//
// Neighbouring threads read neighbouring pieces of a row; a piece of activations, loaded once, serves all rows of the
// team. The number of steps is a constant, and a step loads all it needs before it computes anything: drivers keep this
// order, and one sum between the loads costs 13% (H200).
const TEAM: u32 = WORKGROUP / TEAMS;
const STEPS: u32 = (PIECES + TEAM - 1u) / TEAM;
const SUMS: u32 = ROWS_PER_TEAM + EXTRA;

// i, or the last of `count`, where workgroups of `step` each may reach beyond it. Without a minimum, where none reaches
// beyond, rows lie constants apart: long rows of INT2 times INT8 activations (the one PIECE of 64) gain 8% from it, INT4
// loses up to 10% and INT8 nothing (H100), since drivers order loads otherwise.
fn within(i: u32, count: u32, step: u32) -> u32 {
  if (PIECE == 64u && COLUMNS > 8192u && count % step == 0u && count / step <= 32768u) { return i; }
  return min(i, count - 1u);
}

alias Pieces = array<Piece, ROWS_PER_TEAM>;

fn pieces_of(first: u32, piece: u32) -> Pieces {
  var loaded: Pieces;
  for (var i = 0u; i < ROWS_PER_TEAM; i++) { loaded[i] = piece_at(weight_row(first, i), piece); }
  return loaded;
}

// Weights of the first step, for a caller that has to wait before it can use them: `sums_from` goes on with them, and
// loads those of each step while it computes with those of the one before.
fn first_pieces(first: u32, thread: u32) -> Pieces { return pieces_of(first, min(thread % TEAM, PIECES - 1u)); }

fn sums_from(ahead: Pieces, token: u32, first: u32, thread: u32) -> array<f32, SUMS> {
  var sums: array<f32, SUMS>;
  var next = ahead;
  for (var step = 0u; step < STEPS; step++) {
    let piece = step * TEAM + thread % TEAM;
    let loaded = next;
    if (step + 1u < STEPS) { next = pieces_of(first, min(piece + TEAM, PIECES - 1u)); }
    if (PIECES % TEAM == 0u || piece < PIECES) {
      let v = prepared(activations_at(token, piece), piece);
      for (var i = 0u; i < ROWS_PER_TEAM; i++) { sums[i] += piece_sum(loaded[i], v); }
    }
  }
  if (EXTRA == 1u) { sums[SUMS - 1u] = extra_sum(); }
  return sums;
}

// Where activations need not be waited for they are loaded in front of the weights, the order that products were
// measured with.
fn team_sums(token: u32, first: u32, thread: u32) -> array<f32, SUMS> {
  var sums: array<f32, SUMS>;
  for (var step = 0u; step < STEPS; step++) {
    let piece = step * TEAM + thread % TEAM;
    if (PIECES % TEAM == 0u || piece < PIECES) {
      let raw = activations_at(token, piece);
      let loaded = pieces_of(first, piece);
      let v = prepared(raw, piece);
      for (var i = 0u; i < ROWS_PER_TEAM; i++) { sums[i] += piece_sum(loaded[i], v); }
    }
  }
  if (EXTRA == 1u) { sums[SUMS - 1u] = extra_sum(); }
  return sums;
}
