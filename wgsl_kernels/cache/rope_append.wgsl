// Queries, keys and values of a token side by side, as a product of stacked matrices leaves them: queries and keys turn,
// keys and values go where a library file takes them. A workgroup takes one head of one token.
// needs: state (Rows), head_norms (norm_factor, norm_at), head_pairs (HALF, first_dim, dims_apart, turned),
//   bias (bias_at), append (append), finish (finish)
@group(0) @binding(0) var<storage, read> x: array<x_type>;  // [token][queries, keys, values]
@group(0) @binding(6) var<storage, read_write> q: array<q_type>;
@group(0) @binding(8) var<uniform> state: Rows;

const HEADS: u32 = WIDTH / HEAD_DIM;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let head = id.x;  // of q, then k, then v
  let first = head * HEAD_DIM;
  let factor = norm_factor(token * ROWS + first, head, thread);
  for (var turn = 0u; turn < (HALF + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= HALF) { break; }
    let dim = first_dim(i);
    let apart = dims_apart(i);
    let at = token * ROWS + first + dim;
    var pair = vec2<f32>(f32(x[at]) + bias_at(first + dim), f32(x[at + apart]) + bias_at(first + dim + apart));
    pair = pair * factor * vec2<f32>(norm_at(head, dim), norm_at(head, dim + apart));
    if (head < HEADS + KV_HEADS) { pair = turned(i, state[token].position, pair); }
    if (head < HEADS) {
      let to = token * WIDTH + first + dim;
      q[to] = q_type(pair.x);
      q[to + apart] = q_type(pair.y);
    } else {
      append(token, (head - HEADS) / KV_HEADS, (head - HEADS) % KV_HEADS, dim, apart, pair);
    }
  }
  if (head >= HEADS) { finish((head - HEADS) / KV_HEADS, token, (head - HEADS) % KV_HEADS, thread); }
}
