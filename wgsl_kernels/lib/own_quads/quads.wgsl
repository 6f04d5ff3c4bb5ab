// provides: OWN, own_quad, store_own
// needs: quantize_quad (quantized_quad), caller (QUADS, store_words, store_scale)
// Four numbers at a time that a thread makes of QUADS, and stores in INT8: eight lanes quantize a block of 32. They are
// made before the first is quantized, since drivers load nothing early past what lanes exchange.
const OWN: u32 = (QUADS + WORKGROUP - 1u) / WORKGROUP;

fn own_quad(n: u32, thread: u32) -> u32 { return n * WORKGROUP + thread; }
fn store_own(v: array<vec4<f32>, OWN>, thread: u32, stride: u32) {
  for (var n = 0u; n < OWN; n++) {
    let quad = own_quad(n, thread);
    let part = quantized_quad(v[n], thread, stride);
    if (quad < QUADS && thread % 4u == 0u) {
      store_words(quad / 4u, part.words);
      if (thread % 8u == 0u) { store_scale(quad / 8u, part.scale); }
    }
  }
}
