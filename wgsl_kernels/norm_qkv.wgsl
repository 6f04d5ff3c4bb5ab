// Norm, q/k/v projections, rotary embedding and, by a library file, the append to the cache in one dispatch for few
// tokens. The rows of the weight are those of q, k and v, head by head; a team computes ROWS_PER_TEAM / 2 pairs of rows
// of a head: (i, i + ROTATED / 2), which the rotary embedding turns together, and of what it passes (PASSED dimensions
// behind the first ROTATED) rows PASSED / 2 apart.
@group(0) @binding(4) var<storage, read> table: array<f32>;  // [position][cosines, then sines]
@group(0) @binding(6) var<storage, read_write> q: array<q_type>;
@group(0) @binding(8) var<uniform> state: State;

const HALF: u32 = HEAD_DIM / 2u;  // pairs of a head
const TURNED: u32 = ROTATED / 2u;  // those that turn
const PAIRS: u32 = ROWS_PER_TEAM / 2u;
const HEADS: u32 = WIDTH / HEAD_DIM;
fn passes(pair: u32) -> bool { return PASSED > 0u && pair % HALF >= TURNED; }
fn first_dim(pair: u32) -> u32 { return pair % HALF + select(0u, TURNED, passes(pair)); }
fn dims_apart(pair: u32) -> u32 { return select(TURNED, PASSED / 2u, passes(pair)); }
fn weight_row(first: u32, i: u32) -> u32 {
  let pair = within(first + i / 2u, ROWS / 2u, TEAMS * PAIRS);
  return pair / HALF * HEAD_DIM + first_dim(pair) + (i & 1u) * dims_apart(pair);
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
      let dim = first_dim(pair);
      let apart = dims_apart(pair);
      let factor = norm_factor(team);
      var a = sum_of(team, i % PAIRS * 2u) * factor;
      var b = sum_of(team, i % PAIRS * 2u + 1u) * factor;
      if (head < HEADS + KV_HEADS && !passes(pair)) {
        let angle = min(position, CAPACITY - 1u) * ROTATED + dim;
        let c = table[angle];
        let s = table[angle + TURNED];
        let turned = vec2<f32>(a * c - b * s, b * c + a * s);
        a = turned.x;
        b = turned.y;
      }
      if (head < HEADS) {
        let at = token * WIDTH + head * HEAD_DIM + dim;
        q[at] = q_type(a);
        q[at + apart] = q_type(b);
      } else {
        append(token, (head - HEADS) / KV_HEADS, (head - HEADS) % KV_HEADS, dim, apart, vec2<f32>(a, b));
      }
    }
  }
}
