// Norm, gate, up and their product as in norm_gate_up.wgsl, in integers: the input is quantized on the way in
// (lib/x_a8/row.wgsl), the product on the way out, so that the down projection finds INT8 and no dispatch stands
// between. A workgroup computes whole blocks of 32 units, since a scale needs all of a block, in as many rounds as its
// teams take for one.
// needs: team_sums (within, first_pieces, sums_from, TEAM), stage (stage), extra_sum (start_extra), row_factor (row_factor),
//   round_sums (keep_sums, made_sum), activate (activate), store_blocks (store_blocks),
//   low_sums (low_ahead, add_low, low_sum)
@group(0) @binding(6) var<storage, read_write> y: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> y_scales: array<f32>;

const UNITS: u32 = ROWS_PER_TEAM / 2u;
const ROUND_UNITS: u32 = TEAMS * UNITS;
const ROUNDS: u32 = max(1u, 32u / ROUND_UNITS);
const MADE: u32 = ROUNDS * ROUND_UNITS;
var<workgroup> products: array<f32, MADE>;
var<private> token: u32;
var<private> group_first: u32;
fn weight_row(first: u32, i: u32) -> u32 { return within(first + i / 2u, WIDTH, MADE) + (i & 1u) * WIDTH; }
const LOW_SUMS: u32 = 2u * MADE;
fn low_place(token: u32, first: u32, slot: u32) -> vec2<u32> { return vec2<u32>(token, weight_row(first, slot)); }

fn made_quad(i: u32) -> vec4<f32> {
  return vec4<f32>(products[i * 4u], products[i * 4u + 1u], products[i * 4u + 2u], products[i * 4u + 3u]);
}
fn store_words(i: u32, words: vec4<u32>) {
  let at = group_first / 16u + i;
  if (at < Y_BLOCKS * 2u) { y[token * Y_BLOCKS * 2u + at] = words; }
}
fn store_scale(block: u32, scale: f32) {
  let at = group_first / 32u + block;
  if (at < Y_BLOCKS) { y_scales[token * Y_BLOCKS + at] = scale; }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  token = id.y;
  group_first = (id.x + id.z * 32768u) * MADE;
  let own = thread / TEAM * UNITS;
  // weights of a round are on their way while the row is made, and while sums of the round before are made
  var ahead = first_pieces(group_first + own, thread);
  stage(token, thread);
  for (var round = 0u; round < ROUNDS; round++) {
    let first = group_first + round * ROUND_UNITS;
    start_extra();
    let sums = sums_from(ahead, token, first + own, thread);
    if (round + 1u < ROUNDS) { ahead = first_pieces(first + ROUND_UNITS + own, thread); }
    keep_sums(round, sums, thread);
  }
  workgroupBarrier();
  add_low(low_ahead(token, group_first, thread), token, group_first, thread);
  let factor = row_factor(0u);
  for (var turn = 0u; turn < (MADE + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= MADE) { break; }
    let own = vec2<f32>(made_sum(i * 2u), made_sum(i * 2u + 1u));
    let sums = (own + vec2<f32>(low_sum(i * 2u), low_sum(i * 2u + 1u))) * factor;
    products[i] = select(0.0, activate(sums.x) * sums.y, group_first + i < WIDTH);
  }
  workgroupBarrier();
  store_blocks(thread, Y_STRIDE);
}
