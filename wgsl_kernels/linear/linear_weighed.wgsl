// y = x W^T + residual for few tokens, and y in INT8 for the products behind the norm that reads it: weighed with the norm,
// in blocks of 32, whose scales lack the norm's factor; that needs the whole row, so whoever multiplies these words adds
// up the squares beside the scales (lib/x_a8/weighed). A workgroup computes whole blocks, since a scale needs all of one,
// in as many rounds as its teams take.
// needs: team_sums (within, first_pieces, sums_from, TEAM), add_up (add_up, sum_of), store_blocks (store_blocks)
@group(0) @binding(4) var<storage, read> norm: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(8) var<storage, read_write> words: array<vec4<u32>>;
@group(0) @binding(9) var<storage, read_write> facts: array<vec2<f32>>;  // of a block: scale, sum of squares

const BLOCKS: u32 = ROWS / 32u;
const ROUND_ROWS: u32 = TEAMS * ROWS_PER_TEAM;
const ROUNDS: u32 = max(1u, 32u / ROUND_ROWS);
const MADE: u32 = ROUNDS * ROUND_ROWS;
var<workgroup> row: array<f32, MADE>;          // the residual, then y
var<workgroup> row_weights: array<f32, MADE>;  // the norm's
var<private> token: u32;
var<private> group_first: u32;
fn weight_row(first: u32, i: u32) -> u32 { return within(first + i, ROWS, MADE); }

fn row_quad(i: u32) -> vec4<f32> { return vec4<f32>(row[i * 4u], row[i * 4u + 1u], row[i * 4u + 2u], row[i * 4u + 3u]); }
fn made_quad(i: u32) -> vec4<f32> {
  return row_quad(i) * vec4<f32>(row_weights[i * 4u], row_weights[i * 4u + 1u], row_weights[i * 4u + 2u],
                                 row_weights[i * 4u + 3u]);
}
fn store_words(i: u32, quants: vec4<u32>) {
  let at = group_first / 16u + i;
  if (at < BLOCKS * 2u) { words[token * BLOCKS * 2u + at] = quants; }
}
fn store_scale(block: u32, scale: f32) {
  let at = group_first / 32u + block;
  var squares = 0.0;
  for (var i = 0u; i < 8u; i++) { squares += dot(row_quad(block * 8u + i), row_quad(block * 8u + i)); }
  if (at < BLOCKS) { facts[token * BLOCKS + at] = vec2<f32>(scale, squares); }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  token = id.y;
  group_first = (id.x + id.z * 32768u) * MADE;
  let own = thread / TEAM * ROWS_PER_TEAM;
  // weights of a round are on their way while sums of the round before are added up
  var ahead = first_pieces(group_first + own, thread);
  for (var i = thread; i < MADE; i += WORKGROUP) {
    let at = min(group_first + i, ROWS - 1u);
    row[i] = residual[token * ROWS + at];
    row_weights[i] = norm[at];
  }
  workgroupBarrier();
  for (var round = 0u; round < ROUNDS; round++) {
    let first = round * ROUND_ROWS;
    let sums = sums_from(ahead, token, group_first + first + own, thread);
    if (round + 1u < ROUNDS) { ahead = first_pieces(group_first + first + ROUND_ROWS + own, thread); }
    add_up(sums, thread);
    for (var i = thread; i < ROUND_ROWS; i += WORKGROUP) {
      let sum = FACTOR * sum_of(i / ROWS_PER_TEAM, i % ROWS_PER_TEAM) + row[first + i];
      row[first + i] = sum;
      if (group_first + first + i < ROWS) { y[token * ROWS + group_first + first + i] = sum; }
    }
    workgroupBarrier();
  }
  store_blocks(thread, STRIDE);
}
