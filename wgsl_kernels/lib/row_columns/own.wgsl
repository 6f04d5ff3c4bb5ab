// provides: columns_ahead, stage_columns, columns_of
// needs: product_a8 (Activations, Columns, activations_at, prepared), caller (HELD, TEAM, piece_of)
// Each thread loads the activations of its pieces for itself, and counts what rows want to know of them.
alias ColumnsAhead = array<Activations, HELD>;

fn columns_ahead(token: u32, chunk: u32, thread: u32) -> ColumnsAhead {
  var ahead: ColumnsAhead;
  for (var turn = 0u; turn < HELD; turn++) { ahead[turn] = activations_at(token, piece_of(chunk, turn * TEAM + thread % TEAM)); }
  return ahead;
}
fn stage_columns(ahead: ColumnsAhead, thread: u32) {}
fn columns_of(ahead: ColumnsAhead, turn: u32, lane: u32) -> Columns {
  return prepared(ahead[turn]);
}
