// provides: bins, BIN_WORDS, clear_bins, put, sum_sixteens, find_digit, nucleus, is_within, is_on
// needs: draw (add, less, subtract, share_of, EVERY, GREEDY, NUCLEUS), caller (options)
// Weights by a digit of their keys, summed in 64 bits: low words, then high words. Each addition tells by what was there
// before whether it carries, so the sum is exact in whatever order they come. Most weights are below 2^32: one addition.
var<workgroup> bins: array<atomic<u32>, BIN_WORDS>;
var<workgroup> sixteens: array<vec2<u32>, 16>;
const BIN_WORDS: u32 = 512u;

fn clear_bins(thread: u32) {
  for (var turn = 0u; turn < BIN_WORDS / WORKGROUP; turn++) { atomicStore(&bins[turn * WORKGROUP + thread], 0u); }
}
fn put(digit: u32, weight: vec2<u32>) {
  var high = weight.y;
  if (weight.x != 0u) {
    let before = atomicAdd(&bins[digit], weight.x);
    high += select(0u, 1u, before + weight.x < before);
  }
  if (high != 0u) { atomicAdd(&bins[256u + digit], high); }
}
fn sum_at(digit: u32) -> vec2<u32> { return vec2<u32>(atomicLoad(&bins[digit]), atomicLoad(&bins[256u + digit])); }
// Before `all_bins` and `find_digit`; a barrier goes before and after.
fn sum_sixteens(thread: u32) {
  for (var turn = 0u; turn < (16u + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= 16u) { break; }
    var sum = vec2<u32>();
    for (var n = 0u; n < 16u; n++) { sum = add(sum, sum_at(16u * i + n)); }
    sixteens[i] = sum;
  }
}
fn all_bins() -> vec2<u32> {
  var sum = vec2<u32>();
  for (var i = 0u; i < 16u; i++) { sum = add(sum, sixteens[i]); }
  return sum;
}
struct Digit { digit: u32, rest: vec2<u32> }
// The digit at which sums from the highest one down reach `wanted`, and what is then left of it.
fn find_digit(wanted: vec2<u32>) -> Digit {
  var rest = wanted;
  var i = 15u;
  for (var n = 0u; n < 15u; n++) {
    if (!less(sixteens[i], rest)) { break; }
    rest = subtract(rest, sixteens[i]);
    i -= 1u;
  }
  var digit = 16u * i + 15u;
  for (var n = 0u; n < 15u; n++) {
    let here = sum_at(digit);
    if (!less(here, rest)) { break; }
    rest = subtract(rest, here);
    digit -= 1u;
  }
  return Digit(digit, rest);
}
// The share top_p of all the mass, at least 1: so the best token stays.
fn nucleus() -> vec2<u32> {
  let wanted = share_of(all_bins(), options.top_p);
  return select(wanted, vec2<u32>(1u, 0u), wanted.x == 0u && wanted.y == 0u);
}
// Whether a key has the digits found so far, those above `shift`.
fn is_within(key: u32, prefix: u32, shift: u32) -> bool {
  return ((key ^ prefix) & select(EVERY << ((shift + 8u) & 31u), 0u, shift == 24u)) == 0u;
}
// Rounds 0 to 3 search for top-k's threshold, 4 to 7 for top-p's.
fn is_on(round: u32) -> bool {
  if ((options.flags & GREEDY) != 0u) { return false; }
  if (round < 4u) { return options.top_k > 0u && options.top_k < WIDTH; }
  return (options.flags & NUCLEUS) != 0u;
}
