// provides: OWN, own_quad, store_own
// needs: quantize_block (quantized_block), caller (QUADS, store_words, store_scale)
// Four numbers at a time that a thread makes of QUADS, and stores in INT8: whole blocks of 32, for any device.
const OWN_BLOCKS: u32 = (QUADS / 8u + WORKGROUP - 1u) / WORKGROUP;
const OWN: u32 = OWN_BLOCKS * 8u;

fn own_quad(n: u32, thread: u32) -> u32 { return (n / 8u * WORKGROUP + thread) * 8u + n % 8u; }
fn store_own(v: array<vec4<f32>, OWN>, thread: u32, stride: u32) {
  for (var n = 0u; n < OWN_BLOCKS; n++) {
    let block = n * WORKGROUP + thread;
    var own: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) { own[i] = v[n * 8u + i]; }
    let q = quantized_block(own, stride);
    if (block < QUADS / 8u) {
      store_words(block * 2u, q.a);
      store_words(block * 2u + 1u, q.b);
      store_scale(block, q.scale);
    }
  }
}
