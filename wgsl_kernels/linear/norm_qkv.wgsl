// Norm, q/k/v projections, rotary embedding and, by a library file, the append to the cache in one dispatch for few
// tokens. The rows of the weight are those of q, k and v, head by head; a team computes ROWS_PER_TEAM / 2 pairs of rows
// of a head (lib/head_pairs).
// needs: state (Rows), team_sums (within, first_pieces, sums_from, TEAM), head_pairs/halves (HALF, first_dim, dims_apart, turned),
//   stage (stage), add_up (add_up, sum_of), row_factor (row_factor), append (append),
//   low_sums (low_ahead, add_low, low_sum)
@group(0) @binding(6) var<storage, read_write> q: array<q_type>;
@group(0) @binding(8) var<uniform> state: Rows;

const PAIRS: u32 = ROWS_PER_TEAM / 2u;
const HEADS: u32 = WIDTH / HEAD_DIM;
fn weight_row(first: u32, i: u32) -> u32 {
  let pair = within(first + i / 2u, ROWS / 2u, TEAMS * PAIRS);
  return pair / HALF * HEAD_DIM + first_dim(pair) + (i & 1u) * dims_apart(pair);
}
const LOW_SUMS: u32 = TEAMS * ROWS_PER_TEAM;
fn low_place(token: u32, first: u32, slot: u32) -> vec2<u32> { return vec2<u32>(token, weight_row(first, slot)); }

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let group_first = (id.x + id.z * 32768u) * TEAMS * PAIRS;
  let first = group_first + thread / TEAM * PAIRS;
  let ahead = first_pieces(first, thread);  // on their way while the row is made
  stage(token, thread);
  let sums = sums_from(ahead, token, first, thread);
  add_low(low_ahead(token, group_first, thread), token, group_first, thread);
  add_up(sums, thread);
  let factor = row_factor(0u);
  for (var turn = 0u; turn < (TEAMS * PAIRS + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= TEAMS * PAIRS) { break; }
    let pair = group_first + i;
    let team = i / PAIRS;
    if (pair < ROWS / 2u) {
      let head = pair / HALF;  // of q, then k, then v
      let dim = first_dim(pair);
      let apart = dims_apart(pair);
      var sums = vec2<f32>(sum_of(team, i % PAIRS * 2u), sum_of(team, i % PAIRS * 2u + 1u));
      sums = (sums + vec2<f32>(low_sum(i * 2u), low_sum(i * 2u + 1u))) * factor;
      if (head < HEADS + KV_HEADS) { sums = turned(pair, state[token].position, sums); }
      if (head < HEADS) {
        let at = token * WIDTH + head * HEAD_DIM + dim;
        q[at] = q_type(sums.x);
        q[at + apart] = q_type(sums.y);
      } else {
        append(token, (head - HEADS) / KV_HEADS, (head - HEADS) % KV_HEADS, dim, apart, sums);
      }
    }
  }
}
