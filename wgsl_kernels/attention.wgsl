// Causal attention over the cache with grouped queries: a workgroup computes one head of one token.
//
// Tiles of WORKGROUP positions: each thread scores one position, the softmax runs online (Milakov and Gimelshein
// 2018), then each thread adds up its own dimensions of the values. Loops are bounded by the state, a uniform, as
// barriers inside them require.
@group(0) @binding(0) var<storage, read> q: array<vec4<q_type>>;
@group(0) @binding(1) var<storage, read> kv: array<vec4<kv_type>>;
@group(0) @binding(2) var<uniform> state: State;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<y_type>>;

const QUADS: u32 = HEAD_DIM / 4u;
const MINE: u32 = (QUADS + WORKGROUP - 1u) / WORKGROUP;  // quads of the output that a thread owns
var<workgroup> query: array<vec4<f32>, QUADS>;
var<workgroup> weights: array<f32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = id.x;
  let token = id.y;
  let heads = WIDTH / HEAD_DIM;
  let keys = ((state.sequence * 2u) * KV_HEADS + head / (heads / KV_HEADS)) * CAPACITY;
  let values = keys + KV_HEADS * CAPACITY;
  let count = min(state.position + token + 1u, CAPACITY);  // positions this token sees
  for (var i = thread; i < QUADS; i += WORKGROUP) {
    query[i] = vec4<f32>(q[token * WIDTH / 4u + head * QUADS + i]) * SCALE;
  }
  workgroupBarrier();

  var largest = -3.0e38;
  var total = 0.0;
  var sums: array<vec4<f32>, MINE>;
  for (var start = 0u; start < count; start += WORKGROUP) {
    let position = start + thread;
    var score = -3.0e38;
    if (position < count) {
      let at = (keys + position) * QUADS;
      score = 0.0;
      for (var i = 0u; i < QUADS; i++) { score += dot(query[i], vec4<f32>(kv[at + i])); }
    }
    let new_largest = max(largest, workgroup_max(score, thread));
    let weight = select(0.0, exp(score - new_largest), position < count);
    weights[thread] = weight;
    let correction = exp(largest - new_largest);
    total = total * correction + workgroup_sum(weight, thread);
    largest = new_largest;
    workgroupBarrier();  // the sum over a subgroup alone would not order `weights`
    let seen = min(WORKGROUP, count - start);
    for (var m = 0u; m < MINE; m++) {
      let quad = thread + m * WORKGROUP;
      if (quad < QUADS) {
        var sum = sums[m] * correction;
        for (var j = 0u; j < seen; j++) { sum += weights[j] * vec4<f32>(kv[(values + start + j) * QUADS + quad]); }
        sums[m] = sum;
      }
    }
    workgroupBarrier();
  }
  for (var m = 0u; m < MINE; m++) {
    let quad = thread + m * WORKGROUP;
    if (quad < QUADS) { y[token * WIDTH / 4u + head * QUADS + quad] = vec4<y_type>(sums[m] / total); }
  }
}
