// provides: place_of, x_row
// A tile's tokens are those of the step, in their order.
struct Place { first: u32, end: u32 }
fn place_of(tile: u32) -> Place { return Place(tile * TILE_TOKENS, TOKENS); }
fn x_row(i: u32) -> u32 { return i; }
