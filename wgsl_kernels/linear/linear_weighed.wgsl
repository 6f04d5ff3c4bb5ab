// y = x W^T + residual for few tokens, and y in INT8 for the products behind the norm that reads it: weighed with the norm,
// in blocks of 32, whose scales lack the norm's factor; that needs the whole row, so whoever multiplies these words adds
// up the squares beside the scales (lib/x_a8/weighed). A workgroup computes whole blocks, since a scale needs all of one,
// in as many rounds as its teams take.
// needs: team_sums (within, first_pieces, sums_from, TEAM), add_up (add_up, sum_of), residual (with_residual),
//   quantize_block (quantized_block)
@group(0) @binding(4) var<storage, read> norm: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(8) var<storage, read_write> words: array<vec4<u32>>;
@group(0) @binding(9) var<storage, read_write> facts: array<vec2<f32>>;  // of a block: scale, sum of squares

const BLOCKS: u32 = ROWS / 32u;
const ROUND_ROWS: u32 = TEAMS * ROWS_PER_TEAM;
const ROUNDS: u32 = max(1u, 32u / ROUND_ROWS);
const GROUP_ROWS: u32 = ROUNDS * ROUND_ROWS;
var<workgroup> row: array<f32, GROUP_ROWS>;
fn weight_row(first: u32, i: u32) -> u32 { return within(first + i, ROWS, GROUP_ROWS); }

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let group_first = (id.x + id.z * 32768u) * GROUP_ROWS;
  let own = thread / TEAM * ROWS_PER_TEAM;
  // weights of a round are on their way while sums of the round before are added up
  var ahead = first_pieces(group_first + own, thread);
  for (var round = 0u; round < ROUNDS; round++) {
    let first = group_first + round * ROUND_ROWS;
    let sums = sums_from(ahead, token, first + own, thread);
    if (round + 1u < ROUNDS) { ahead = first_pieces(first + ROUND_ROWS + own, thread); }
    add_up(sums, thread);
    for (var i = thread; i < ROUND_ROWS; i += WORKGROUP) {
      var sum = 0.0;
      if (first + i < ROWS) {
        let index = token * ROWS + first + i;
        sum = with_residual(sum_of(i / ROWS_PER_TEAM, i % ROWS_PER_TEAM), index);
        y[index] = sum;
      }
      row[round * ROUND_ROWS + i] = sum;
    }
    workgroupBarrier();
  }
  for (var b = thread; b < GROUP_ROWS / 32u; b += WORKGROUP) {
    let block = group_first / 32u + b;
    if (block < BLOCKS) {
      var v: array<vec4<f32>, 8>;
      var squares = 0.0;
      for (var i = 0u; i < 8u; i++) {
        let at = b * 32u + i * 4u;
        let each = vec4<f32>(row[at], row[at + 1u], row[at + 2u], row[at + 3u]);
        squares += dot(each, each);
        v[i] = each * norm[block * 8u + i];
      }
      let q = quantized_block(v, STRIDE);
      let to = token * BLOCKS + block;
      words[to * 2u] = q.a;
      words[to * 2u + 1u] = q.b;
      facts[to] = vec2<f32>(q.scale, squares);
    }
  }
}
