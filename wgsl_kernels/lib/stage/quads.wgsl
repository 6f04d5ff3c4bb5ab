// provides: stage
// needs: x (x4), norm_sum (norm), quantize_quad (quantized_quad), x_a8/row (row_words, row_facts, X_GROUPS)
// Eight lanes quantize a block of 32 columns, four each. Several quads are loaded before the first is quantized: drivers
// load nothing early past what lanes exchange (4096 columns in four turns of one quad took 2 us longer, H200).
const QUADS: u32 = X_GROUPS * 8u;
const TURNS: u32 = min(4u, (QUADS + WORKGROUP - 1u) / WORKGROUP);
const ROUNDS_OF_TURNS: u32 = (QUADS + TURNS * WORKGROUP - 1u) / (TURNS * WORKGROUP);

fn stage(token: u32, thread: u32) {
  for (var round = 0u; round < ROUNDS_OF_TURNS; round++) {
    let first = round * TURNS * WORKGROUP;
    var rows = array<vec4<f32>, TURNS>();
    var weights: array<vec4<f32>, TURNS>;
    for (var turn = 0u; turn < TURNS; turn++) {
      let column = (first + turn * WORKGROUP + thread) * 4u;
      if (column < COLUMNS) { rows[turn] = x4(token, column); }
      weights[turn] = norm[min(column, COLUMNS - 4u) / 4u];
    }
    for (var turn = 0u; turn < TURNS; turn++) {
      let quad = first + turn * WORKGROUP + thread;
      var sum = dot(rows[turn], rows[turn]);
      for (var n = 0u; n < 3u; n++) { sum += subgroupShuffleXor(sum, 1u << n); }
      let part = quantized_quad(rows[turn] * weights[turn], thread, STRIDE);
      if (quad < QUADS && thread % 4u == 0u) {
        row_words[quad / 4u] = part.words;
        if (thread % 8u == 0u) { row_facts[quad / 8u] = vec2<f32>(part.scale, sum); }
      }
    }
  }
  workgroupBarrier();
}
