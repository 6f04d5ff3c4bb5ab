// provides: row_of
// needs: state (Row), caller (state)
// What a step knows of a row, as the kernel has bound it.
fn row_of(token: u32) -> Row { return state[token]; }
