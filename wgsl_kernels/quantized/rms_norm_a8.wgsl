// `rms_norm` with its result in INT8, in blocks of 32 columns: a workgroup takes a row, which it reads once.
//
// What is quantized is the weighted row, without the norm's factor: that multiplies the scales, so that no thread has to
// wait for the sum of squares before it quantizes what it holds.
//
// STRIDE is the order of the words, as in quantize_activations.wgsl.
// needs: reduce (workgroup_sum), own_quads (OWN, own_quad, store_own)
@group(0) @binding(0) var<storage, read> x: array<vec4<x_type>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> y_scales: array<f32>;

const QUADS: u32 = HIDDEN / 4u;
var<private> row: u32;
var<workgroup> scales: array<f32, Y_BLOCKS>;  // without the factor

fn store_words(i: u32, words: vec4<u32>) { y[row * Y_BLOCKS * 2u + i] = words; }
fn store_scale(block: u32, scale: f32) { scales[block] = scale; }

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  row = id.x;
  var v: array<vec4<f32>, OWN>;
  var weights: array<vec4<f32>, OWN>;
  for (var n = 0u; n < OWN; n++) {
    let quad = own_quad(n, thread);
    weights[n] = weight[min(quad, QUADS - 1u)];
    if (quad < QUADS) { v[n] = vec4<f32>(x[row * QUADS + quad]); }
  }
  var squares = 0.0;
  for (var n = 0u; n < OWN; n++) {
    squares += dot(v[n], v[n]);
    v[n] *= weights[n];
  }
  store_own(v, thread, STRIDE);
  let factor = 1.0 / sqrt(workgroup_sum(squares, thread) / f32(HIDDEN) + EPS);
  workgroupBarrier();  // not every reduction has one
  for (var turn = 0u; turn < (Y_BLOCKS + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let block = turn * WORKGROUP + thread;
    if (block >= Y_BLOCKS) { break; }
    y_scales[row * Y_BLOCKS + block] = scales[block] * factor;
  }
}
