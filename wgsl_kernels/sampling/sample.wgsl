// A token drawn from one row of logits, by one workgroup.
//
// Thresholds of top-k and top-p are found digit by digit of the keys (a radix search, eight bits at a time): counts or
// weights of each digit's keys are summed, and the digit at which sums from the best down reach what is wanted is kept.
// No sort, and eight times through the logits at most. Small vocabularies; sample_tally.wgsl is for large ones.
// needs: draw (Options, EVERY, key_of, weight_of, share_of, random_word, is_unusable), state (Rows),
//   draw_bins (clear_bins, is_within, put, bins, sum_sixteens, nucleus, find_digit, is_on),
//   draw_choose (sum_run, all_runs, token_at)
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> seen: array<u32>;
@group(0) @binding(2) var<uniform> options: Options;
@group(0) @binding(3) var<uniform> state: Rows;
@group(0) @binding(4) var<storage, read_write> token: array<u32>;

var<workgroup> top: atomic<u32>;
// Places of the keys that a thread has still to look at, where they are few: fewer with each digit.
const HELD: u32 = 32u;
var<private> held: array<u32, HELD>;
const TURNS: u32 = (WIDTH + WORKGROUP - 1u) / WORKGROUP;

// The lowest key that stays of those at `lowest` or above; by their count or by their mass.
fn threshold(best: u32, lowest: u32, by_mass: bool, thread: u32) -> u32 {
  var prefix = 0u;
  var wanted = vec2<u32>(options.top_k, 0u);
  let mine = (WIDTH + WORKGROUP - 1u - thread) / WORKGROUP;
  var left = EVERY;
  for (var round = 0u; round < 4u; round++) {
    let shift = 24u - 8u * round;
    workgroupBarrier();
    clear_bins(thread);
    workgroupBarrier();
    let few = left <= HELD;
    let count = select(mine, left, few);
    left = 0u;
    for (var n = 0u; n < TURNS; n++) {
      if (n >= count) { break; }
      let i = select(n * WORKGROUP + thread, held[n % HELD], few);
      let key = key_of(i);
      if (key >= lowest && is_within(key, prefix, shift)) {
        held[left % HELD] = i;
        left += 1u;
        let digit = (key >> shift) & 255u;
        if (by_mass) { put(digit, weight_of(key, best)); } else { atomicAdd(&bins[digit], 1u); }
      }
    }
    workgroupBarrier();
    sum_sixteens(thread);
    workgroupBarrier();
    if (by_mass && round == 0u) { wanted = nucleus(); }
    let found = find_digit(wanted);
    wanted = found.rest;
    prefix |= found.digit << shift;
  }
  return prefix;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(local_invocation_index) thread: u32) {
  if (thread == 0u) { atomicStore(&top, 0u); }
  workgroupBarrier();
  var mine = 0u;
  for (var turn = 0u; turn < TURNS; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= WIDTH) { break; }
    mine = max(mine, key_of(i));
  }
  atomicMax(&top, mine);
  workgroupBarrier();
  let best = atomicLoad(&top);
  var lowest = 0u;
  if (is_on(0u)) { lowest = threshold(best, 0u, false, thread); }
  if (is_on(4u)) { lowest = threshold(best, lowest, true, thread); }
  sum_run(0u, WIDTH, best, lowest, thread);
  workgroupBarrier();
  if (thread == 0u) {
    let wanted = share_of(all_runs(), random_word(state[0].position + 1u));
    let drawn = token_at(0u, WIDTH, wanted, best, lowest);
    token[0] = drawn;
    seen[drawn >> 5u] |= 1u << (drawn & 31u);
    if (is_unusable(best)) { seen[SEEN_WORDS - 1u] += 1u; }
  }
}
