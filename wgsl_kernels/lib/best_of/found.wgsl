// provides: best_of
// needs: caller (Place, LOWEST, NOWHERE, x)
// The largest number of each group and its place, found by the thread that needs it.
fn best_of(row: u32, group: u32) -> Place {
  var best = Place(LOWEST, NOWHERE);
  for (var n = 0u; n < GROUP; n++) {
    let i = group * GROUP + n;
    if (i >= WIDTH) { break; }
    let v = f32(x[row * WIDTH + i]);
    if (v > best.value) { best = Place(v, i); }
  }
  return best;
}
