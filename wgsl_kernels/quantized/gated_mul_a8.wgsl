// y = activate(gate) * up, quantized to INT8 in blocks of 32 where it is made; the activation comes as a library file. A
// workgroup takes MADE columns of a row; what lies beyond the row is 0.
//
// STRIDE is the order of the words, as in quantize_activations.wgsl.
// needs: gated (gate_at, up_at), activate (activate), own_quads (OWN, own_quad, store_own)
@group(0) @binding(2) var<storage, read_write> y: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> y_scales: array<f32>;

const QUADS: u32 = MADE / 4u;
const ROW_QUADS: u32 = WIDTH / 4u;
var<private> row: u32;
var<private> first_block: u32;

fn store_words(i: u32, words: vec4<u32>) {
  let at = first_block * 2u + i;
  if (at < Y_BLOCKS * 2u) { y[row * Y_BLOCKS * 2u + at] = words; }
}
fn store_scale(block: u32, scale: f32) {
  let at = first_block + block;
  if (at < Y_BLOCKS) { y_scales[row * Y_BLOCKS + at] = scale; }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  row = id.y;
  first_block = id.x * (MADE / 32u);
  var gates: array<vec4<f32>, OWN>;
  var ups: array<vec4<f32>, OWN>;
  for (var n = 0u; n < OWN; n++) {
    let quad = first_block * 8u + own_quad(n, thread);
    if (quad < ROW_QUADS) {
      gates[n] = gate_at(row, quad);
      ups[n] = up_at(row, quad);
    }
  }
  for (var n = 0u; n < OWN; n++) {
    let g = gates[n];
    gates[n] = vec4<f32>(activate(g.x), activate(g.y), activate(g.z), activate(g.w)) * ups[n];
  }
  store_own(gates, thread, STRIDE);
}
