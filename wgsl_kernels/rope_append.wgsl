// Queries, keys and values of a token side by side, as a product of stacked matrices leaves them: queries and keys turn
// (rope.wgsl), keys and values go into the cache. A workgroup takes one head of one token.
@group(0) @binding(0) var<storage, read> x: array<x_type>;  // [token][queries, keys, values]
@group(0) @binding(1) var<storage, read> table: array<f32>;  // [position][cosines, then sines]
@group(0) @binding(4) var<uniform> state: State;
@group(0) @binding(5) var<storage, read_write> q: array<q_type>;

const HALF: u32 = ROTATED / 2u;
const HEADS: u32 = WIDTH / HEAD_DIM;
const QUERY: u32 = 2u;  // the part that a query is; keys are 0, values 1
var<private> factor: f32 = 1.0;  // of this head's norm

fn part_of(head: u32) -> u32 { return select((head - HEADS) / KV_HEADS, QUERY, head < HEADS); }

fn plain(token: u32, head: u32, d: u32) -> f32 {
  let at = head * HEAD_DIM + d;
  return (f32(x[token * ROWS + at]) + bias_at(at)) * factor * norm_at(part_of(head), d);
}

fn turned(token: u32, head: u32, d: u32) -> f32 {
  if (head >= HEADS + KV_HEADS || d >= ROTATED) { return plain(token, head, d); }
  let i = d % HALF;
  let angle = min(state.position + token, CAPACITY - 1u) * ROTATED + i;
  let c = table[angle];
  let s = table[angle + HALF];
  let a = plain(token, head, i);
  let b = plain(token, head, i + HALF);
  return select(b * c + a * s, a * c - b * s, d < HALF);
}

fn new_number(part: u32, token: u32, head: u32, d: u32) -> f32 {
  return turned(token, HEADS + part * KV_HEADS + head, d);
}

fn new_quad(part: u32, token: u32, head: u32, quad: u32) -> vec4<f32> {
  let d = 4u * quad;
  return vec4<f32>(new_number(part, token, head, d), new_number(part, token, head, d + 1u),
                   new_number(part, token, head, d + 2u), new_number(part, token, head, d + 3u));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = id.x;
  let token = id.y;
  factor = norm_factor(token * ROWS + head * HEAD_DIM, part_of(head), thread);
  if (head < HEADS) {
    for (var d = thread; d < HEAD_DIM; d += WORKGROUP) {
      q[token * WIDTH + head * HEAD_DIM + d] = q_type(turned(token, head, d));
    }
  } else {
    append_head(part_of(head), token, (head - HEADS) % KV_HEADS, thread);
  }
}
