// provides: best_of
// needs: caller (Place)
// The largest number of each group and its place, from the product that made the numbers.
@group(0) @binding(3) var<storage, read> largest: array<f32>;
@group(0) @binding(4) var<storage, read> index: array<u32>;
fn best_of(row: u32, group: u32) -> Place {
  let slot = row * GROUPS + group;
  return Place(largest[slot], index[slot]);
}
