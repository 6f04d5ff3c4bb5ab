// provides: store_blocks
// needs: quantize_block (quantized_block), caller (made_quad, store_words, store_scale, MADE)
// What a workgroup has made, in INT8: a thread quantizes a block of 32, for any device.
fn store_blocks(thread: u32, stride: u32) {
  for (var turn = 0u; turn < (MADE / 32u + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let block = turn * WORKGROUP + thread;
    if (block >= MADE / 32u) { break; }
    var v: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) { v[i] = made_quad(block * 8u + i); }
    let q = quantized_block(v, stride);
    store_words(block * 2u, q.a);
    store_words(block * 2u + 1u, q.b);
    store_scale(block, q.scale);
  }
}
