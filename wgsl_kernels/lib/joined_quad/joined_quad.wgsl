// provides: HEAD_BLOCKS, BLOCKS, QUADS, joined_quad
// needs: caller (stats, sums)
// The parts of `attention_split` put together, y = sum_s e_s sums_s / sum_s e_s total_s, e_s = exp(largest_s - largest),
// by one subgroup for 32 dimensions of a head: eight lanes have a quad of them each, and SHARING such groups take every
// SHARING-th part. A lane makes the weights of every SUBGROUP_SIZE-th part, and lanes hand them to each other, so that no
// barrier stands between the loads, which all go out at once, and the result.
const QUADS: u32 = HEAD_DIM / 4u;
const HEAD_BLOCKS: u32 = (QUADS + 7u) / 8u;
const BLOCKS: u32 = TOKENS * HEADS * HEAD_BLOCKS;
const SHARING: u32 = SUBGROUP_SIZE / 8u;
const EACH: u32 = (SPLITS + SHARING - 1u) / SHARING;              // parts whose sums a lane adds up
const AHEAD: u32 = min(EACH, 16u);                                // and those that it loads before it knows their weights
const TURNS: u32 = (SPLITS + SUBGROUP_SIZE - 1u) / SUBGROUP_SIZE;  // parts whose weights it makes

fn sums_at(head: u32, quad: u32, i: u32, lane: u32) -> vec4<f32> {
  return sums[(head * SPLITS + min(i * SHARING + lane / 8u, SPLITS - 1u)) * QUADS + quad];
}

// Four dimensions of a block of 32, the lane's; those behind a head's last repeat it.
fn joined_quad(block: u32, lane: u32) -> vec4<f32> {
  let head = block / HEAD_BLOCKS;
  let quad = min(block % HEAD_BLOCKS * 8u + lane % 8u, QUADS - 1u);
  var facts: array<vec2<f32>, TURNS>;
  for (var turn = 0u; turn < TURNS; turn++) {
    facts[turn] = stats[head * SPLITS + min(turn * SUBGROUP_SIZE + lane, SPLITS - 1u)];
  }
  var loaded: array<vec4<f32>, AHEAD>;
  for (var i = 0u; i < AHEAD; i++) { loaded[i] = sums_at(head, quad, i, lane); }
  var largest = facts[0].x;
  for (var turn = 1u; turn < TURNS; turn++) { largest = max(largest, facts[turn].x); }
  largest = subgroupMax(largest);
  var weights: array<f32, TURNS>;
  var total = 0.0;
  for (var turn = 0u; turn < TURNS; turn++) {
    // lanes behind the last part have loaded it too, and weigh nothing
    let mine = turn * SUBGROUP_SIZE + lane < SPLITS;
    weights[turn] = select(0.0, exp(facts[turn].x - largest), mine);
    total += weights[turn] * facts[turn].y;
  }
  total = subgroupAdd(total);
  var sum = vec4<f32>();
  for (var i = 0u; i < EACH; i++) {
    let weight = subgroupShuffle(weights[i * SHARING / SUBGROUP_SIZE], (i * SHARING + lane / 8u) % SUBGROUP_SIZE);
    if (i < AHEAD) { sum += weight * loaded[i]; } else { sum += weight * sums_at(head, quad, i, lane); }
  }
  for (var n = 0u; n < countTrailingZeros(SHARING); n++) { sum += subgroupShuffleXor(sum, 8u << n); }
  return sum / total;
}
