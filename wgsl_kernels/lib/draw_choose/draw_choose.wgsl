// provides: sum_run, all_runs, token_at
// needs: draw (add, left_of, less, subtract)
// The token at a share of the mass: each thread sums a run of neighbours, and the one whose run holds it goes through it.
var<workgroup> runs: array<vec2<u32>, WORKGROUP>;
// Of a run, at most.
const MOST: u32 = (WIDTH + WORKGROUP - 1u) / WORKGROUP;

fn sum_run(first: u32, last: u32, best: u32, lowest: u32, thread: u32) {
  let length = (last - first + WORKGROUP - 1u) / WORKGROUP;
  var sum = vec2<u32>();
  for (var n = 0u; n < MOST; n++) {
    let i = first + thread * length + n;
    if (n >= length || i >= last) { break; }
    sum = add(sum, left_of(i, best, lowest));
  }
  runs[thread] = sum;
}
fn all_runs() -> vec2<u32> {
  var sum = vec2<u32>();
  for (var i = 0u; i < WORKGROUP; i++) { sum = add(sum, runs[i]); }
  return sum;
}
// The token of [first, last) at which sums exceed `wanted`; the last one of them where none does.
fn token_at(first: u32, last: u32, wanted: vec2<u32>, best: u32, lowest: u32) -> u32 {
  let length = (last - first + WORKGROUP - 1u) / WORKGROUP;
  var rest = wanted;
  var run = 0u;
  for (var n = 0u; n < WORKGROUP - 1u; n++) {
    if (less(rest, runs[run])) { break; }
    rest = subtract(rest, runs[run]);
    run += 1u;
  }
  for (var n = 0u; n < MOST; n++) {
    let i = first + run * length + n;
    if (n >= length || i >= last) { break; }
    let here = left_of(i, best, lowest);
    if (less(rest, here)) { return i; }
    rest = subtract(rest, here);
  }
  return 0u;
}
