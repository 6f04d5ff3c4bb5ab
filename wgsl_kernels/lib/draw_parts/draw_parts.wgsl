// provides: best_of_parts, LENGTH, part_start, shift_of, search_on
// needs: draw_bins (BIN_WORDS, bins, is_on, sum_sixteens, nucleus, find_digit), draw (add),
//   caller (best, bins_before, cut)
// A search for thresholds whose digits are found one after another by several dispatches, each over all parts of a row: what the one
// before has left of each part (`bins_before`, `cut`) is put together again by every workgroup. What includes this binds
// these, and `best` (a key a part).
struct Cut { prefix: u32, wanted: vec2<u32>, lowest: u32, round: u32 }

fn best_of_parts() -> u32 {
  var found = 0u;
  for (var i = 0u; i < PARTS; i++) { found = max(found, best[i]); }
  return found;
}
// Numbers of a part.
const LENGTH: u32 = (WIDTH + PARTS - 1u) / PARTS;
fn part_start(part: u32) -> u32 { return min(part * LENGTH, WIDTH); }

fn shift_of(round: u32) -> u32 { return 24u - 8u * (round % 4u); }

fn gather_bins(thread: u32) {
  for (var turn = 0u; turn < 256u / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    var sum = vec2<u32>();
    for (var part = 0u; part < PARTS; part++) {
      let at = part * BIN_WORDS + i;
      sum = add(sum, vec2<u32>(bins_before[at], bins_before[at + 256u]));
    }
    atomicStore(&bins[i], sum.x);
    atomicStore(&bins[256u + i], sum.y);
  }
}
// The search before this round: with one digit more than the last one left it.
fn search_on(thread: u32) -> Cut {
  let before = cut[4];
  var now = Cut(cut[0], vec2<u32>(cut[1], cut[2]), cut[3], before + 1u);
  workgroupBarrier();  // lavapipe clears workgroup memory in each subgroup, whenever that begins
  if (is_on(before)) {
    gather_bins(thread);
    workgroupBarrier();
    sum_sixteens(thread);
    workgroupBarrier();
    if (before == 4u) { now.wanted = nucleus(); }
    let found = find_digit(now.wanted);
    now.prefix |= found.digit << shift_of(before);
    now.wanted = found.rest;
    if (before % 4u == 3u) {
      now.lowest = now.prefix;
      now.prefix = 0u;
    }
  }
  workgroupBarrier();
  return now;
}
