// provides: store_blocks
// needs: quantize_quad (quantized_quad), caller (made_quad, store_words, store_scale, MADE)
// What a workgroup has made, in INT8: eight lanes quantize a block of 32.
fn store_blocks(thread: u32, stride: u32) {
  for (var turn = 0u; turn < (MADE / 4u + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let quad = turn * WORKGROUP + thread;
    let part = quantized_quad(made_quad(min(quad, MADE / 4u - 1u)), thread, stride);
    if (quad < MADE / 4u && thread % 4u == 0u) {
      store_words(quad / 4u, part.words);
      if (thread % 8u == 0u) { store_scale(quad / 8u, part.scale); }
    }
  }
}
