// provides: columns_ahead, stage_columns, columns_of
// needs: product_a8 (Activations, Columns, activations_at, prepared), caller (HELD, TEAM, piece_of)
// Each thread loads the activations of its pieces for itself: less to wait for than with row_columns/staged, where a team has
// many rows to use them for.
alias ColumnsAhead = array<Activations, HELD>;

fn columns_ahead(token: u32, chunk: u32, thread: u32) -> ColumnsAhead {
  var ahead: ColumnsAhead;
  for (var turn = 0u; turn < HELD; turn++) { ahead[turn] = activations_at(token, piece_of(chunk, turn * TEAM + thread % TEAM)); }
  return ahead;
}
fn stage_columns(ahead: ColumnsAhead, chunk: u32, thread: u32) {}
fn columns_of(ahead: ColumnsAhead, chunk: u32, turn: u32, lane: u32) -> Columns {
  return prepared(ahead[turn], piece_of(chunk, turn * TEAM + lane));
}
