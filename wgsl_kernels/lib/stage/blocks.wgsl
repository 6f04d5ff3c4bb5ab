// provides: stage
// needs: x (x4), norm_sum (norm), quantize_block (quantized_block), x_a8/row (row_words, row_facts, X_GROUPS)
// A thread quantizes a block of 32 columns: for any device.
fn stage(token: u32, thread: u32) {
  for (var turn = 0u; turn < (X_GROUPS + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let group = turn * WORKGROUP + thread;
    if (group >= X_GROUPS) { break; }
    var v: array<vec4<f32>, 8>;
    var sum = 0.0;
    for (var i = 0u; i < 8u; i++) {
      let column = group * 32u + i * 4u;
      let each = x4(token, column);
      sum += dot(each, each);
      v[i] = each * norm[min(column, COLUMNS - 4u) / 4u];
    }
    let block = quantized_block(v, STRIDE);
    row_words[group * 2u] = block.a;
    row_words[group * 2u + 1u] = block.b;
    row_facts[group] = vec2<f32>(block.scale, sum);
  }
  workgroupBarrier();
}
