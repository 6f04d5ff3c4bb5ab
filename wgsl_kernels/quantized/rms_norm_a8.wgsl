// `rms_norm` with its result in INT8, in blocks of 32 columns: a workgroup takes a row. All threads add up its squares,
// then a thread normalises and quantizes a block. Squares are summed in short runs, as in rms_norm.wgsl.
//
// STRIDE is the order of the words, as in quantize_activations.wgsl.
// needs: reduce (workgroup_sum), to_bytes (scale_for, inverse_of, to_bytes, to_word, largest_of)
@group(0) @binding(0) var<storage, read> x: array<vec4<x_type>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@group(0) @binding(3) var<storage, read_write> y_scales: array<f32>;

const QUADS: u32 = HIDDEN / 4u;
const RUN: u32 = 8u;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let start = id.x * QUADS;
  var squares = 0.0;
  for (var first = thread; first < QUADS; first += RUN * WORKGROUP) {
    var run = 0.0;
    for (var i = first; i < min(first + RUN * WORKGROUP, QUADS); i += WORKGROUP) {
      let v = vec4<f32>(x[start + i]);
      run += dot(v, v);
    }
    squares += run;
  }
  let factor = 1.0 / sqrt(workgroup_sum(squares, thread) / f32(HIDDEN) + EPS);
  for (var block = thread; block < Y_BLOCKS; block += WORKGROUP) {
    var values: array<f32, 32>;
    var largest = vec4<f32>();
    for (var i = 0u; i < 8u; i++) {
      let quad = vec4<f32>(x[start + block * 8u + i]) * factor * weight[block * 8u + i];
      values[4u * i] = quad.x;
      values[4u * i + 1u] = quad.y;
      values[4u * i + 2u] = quad.z;
      values[4u * i + 3u] = quad.w;
      largest = max(largest, abs(quad));
    }
    let scale = scale_for(largest_of(largest));
    y_scales[id.x * Y_BLOCKS + block] = scale;
    for (var i = 0u; i < 8u; i++) {
      let first = i / STRIDE * (4u * STRIDE) + i % STRIDE;
      let v = vec4<f32>(values[first], values[first + STRIDE], values[first + 2u * STRIDE], values[first + 3u * STRIDE]);
      y[(id.x * Y_BLOCKS + block) * 8u + i] = to_word(to_bytes(v, inverse_of(scale)));
    }
  }
}
