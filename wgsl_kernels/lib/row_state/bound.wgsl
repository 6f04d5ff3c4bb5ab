// provides: row_of
// needs: state (Row, Rows)
// What a step knows of a row, for a kernel that does not ask otherwise.
@group(0) @binding(8) var<uniform> state: Rows;
fn row_of(token: u32) -> Row { return state[token]; }
