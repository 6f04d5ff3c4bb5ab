// Norm, q/k/v projections, rotary embedding and the append to the cache in one dispatch for few tokens. The rows of the
// weight are those of q, k and v, head by head; a team computes ROWS_PER_TEAM / 2 pairs of rows (i, i + HEAD_DIM / 2) of
// a head, which the rotary embedding turns together.
@group(0) @binding(4) var<storage, read> table: array<f32>;  // [position][cosines, then sines]
@group(0) @binding(5) var<storage, read_write> kv: array<kv_type>;
@group(0) @binding(6) var<storage, read_write> q: array<q_type>;
@group(0) @binding(8) var<uniform> state: State;

const HALF: u32 = HEAD_DIM / 2u;
const PAIRS: u32 = ROWS_PER_TEAM / 2u;
const HEADS: u32 = WIDTH / HEAD_DIM;
fn weight_row(first: u32, i: u32) -> u32 {
  let pair = within(first + i / 2u, ROWS / 2u, TEAMS * PAIRS);
  return pair / HALF * HEAD_DIM + pair % HALF + (i & 1u) * HALF;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let group_first = (id.x + id.z * 32768u) * TEAMS * PAIRS;
  bring(token, thread);
  meet(team_sums(token, group_first + thread / TEAM * PAIRS, thread), thread);
  let position = state.position + token;
  for (var i = thread; i < TEAMS * PAIRS; i += WORKGROUP) {
    let pair = group_first + i;
    let team = i / PAIRS;
    if (pair < ROWS / 2u) {
      let head = pair / HALF;  // of q, then k, then v
      let dim = pair % HALF;
      let factor = norm_factor(team);
      var a = sum_of(team, i % PAIRS * 2u) * factor;
      var b = sum_of(team, i % PAIRS * 2u + 1u) * factor;
      if (head < HEADS + KV_HEADS) {
        let angle = min(position, CAPACITY - 1u) * HEAD_DIM + dim;
        let turned = vec2<f32>(a * table[angle] - b * table[angle + HALF], b * table[angle] + a * table[angle + HALF]);
        a = turned.x;
        b = turned.y;
      }
      if (head < HEADS) {
        let at = token * WIDTH + head * HEAD_DIM + dim;
        q[at] = q_type(a);
        q[at + HALF] = q_type(b);
      } else if (token < state.valid && position < CAPACITY) {
        let part = (head - HEADS) / KV_HEADS;  // keys, then values
        let row = ((state.sequence * 2u + part) * KV_HEADS + (head - HEADS) % KV_HEADS) * CAPACITY + position;
        kv[row * HEAD_DIM + dim] = kv_type(a);
        kv[row * HEAD_DIM + dim + HALF] = kv_type(b);
      }
    }
  }
}
