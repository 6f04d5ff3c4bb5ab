// provides: columns_ahead, stage_columns, columns_of
// needs: product_a8 (X_VECTORS, Activations, Columns, activations_at, prepared), caller (CHUNK, TEAM, piece_of)
// A chunk of a row of activations through workgroup memory: each is loaded once, and what all rows of weights want to know of
// it computed once.
const COLUMN_TURNS: u32 = (CHUNK + WORKGROUP - 1u) / WORKGROUP;  // pieces that a thread brings
var<workgroup> staged_x: array<vec4<u32>, X_VECTORS * CHUNK>;    // [vector of a piece][piece], so that banks differ
var<workgroup> staged_facts: array<vec4<f32>, CHUNK>;
alias ColumnsAhead = array<Activations, COLUMN_TURNS>;

fn columns_ahead(token: u32, chunk: u32, thread: u32) -> ColumnsAhead {
  var ahead: ColumnsAhead;
  for (var turn = 0u; turn < COLUMN_TURNS; turn++) {
    let own = turn * WORKGROUP + thread;
    if (own < CHUNK) { ahead[turn] = activations_at(token, piece_of(chunk, own)); }
  }
  return ahead;
}
fn stage_columns(ahead: ColumnsAhead, thread: u32) {
  for (var turn = 0u; turn < COLUMN_TURNS; turn++) {
    let own = turn * WORKGROUP + thread;
    if (own < CHUNK) {
      let columns = prepared(ahead[turn]);
      for (var k = 0u; k < X_VECTORS; k++) { staged_x[k * CHUNK + own] = columns.v[k]; }
      staged_facts[own] = columns.facts;
    }
  }
}
fn columns_of(ahead: ColumnsAhead, turn: u32, lane: u32) -> Columns {
  let own = turn * TEAM + lane;
  var columns: Columns;
  for (var k = 0u; k < X_VECTORS; k++) { columns.v[k] = staged_x[k * CHUNK + own]; }
  columns.facts = staged_facts[own];
  return columns;
}
