// Puts the splits of `attention_split` together: y = sum_s e_s sums_s / sum_s e_s total_s, e_s = exp(largest_s -
// largest).
// A workgroup takes one head of one token, a thread four dimensions.
@group(0) @binding(0) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<y_type>>;

const QUADS: u32 = HEAD_DIM / 4u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = id.y * HEADS + id.x;
  var largest = stats[head * SPLITS].x;
  for (var s = 1u; s < SPLITS; s++) { largest = max(largest, stats[head * SPLITS + s].x); }
  for (var quad = thread; quad < QUADS; quad += 64u) {
    var total = 0.0;
    var sum = vec4<f32>();
    for (var s = 0u; s < SPLITS; s++) {
      let at = head * SPLITS + s;
      let weight = exp(stats[at].x - largest);
      total += weight * stats[at].y;
      sum += weight * sums[at * QUADS + quad];
    }
    y[head * QUADS + quad] = vec4<y_type>(sum / total);
  }
}
