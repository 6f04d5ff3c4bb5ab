// provides: place_of, x_row, above, place_end, order
// A tile's tokens are pairs of a token and an expert, of one expert each: pairs are sorted by expert, and an expert begins
// a tile of its own. What is left of its last tile is empty, and so are tiles beyond the last expert's.
@group(0) @binding(4) var<storage, read> order: array<vec2<u32>>;  // pair, and the bits of its score
@group(0) @binding(5) var<storage, read> starts: array<u32>;       // first pair of each expert, and the end
struct Place { first: u32, end: u32 }
var<private> above: u32;      // rows of this binding above the expert's first; below 0 it wraps
var<private> place_end: u32;  // of the tile's expert

fn place_of(tile: u32) -> Place {
  var before = 0u;
  for (var expert = 0u; expert < COUNT; expert++) {
    let first = starts[expert];
    let end = starts[expert + 1u];
    let tiles = (end - first + TILE_TOKENS - 1u) / TILE_TOKENS;
    if (tile < before + tiles) {
      above = expert * EXPERT_ROWS - ROW_OFFSET;
      place_end = end;
      return Place(first + (tile - before) * TILE_TOKENS, end);
    }
    before += tiles;
  }
  return Place(0u, 0u);
}
fn x_row(i: u32) -> u32 {
  let pair = order[i].x;
  return select(pair / CHOSEN, pair, INPUTS == CHOSEN);
}
