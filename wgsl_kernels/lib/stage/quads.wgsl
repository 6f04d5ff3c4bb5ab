// provides: stage
// needs: x (x4), norm_weight (norm), to_bytes (largest_of, scale_for, to_word, to_bytes, inverse_of),
//   x_a8/row (row_words, row_facts, X_GROUPS)
// Eight lanes quantize a block of 32 columns, four each: loads side by side, and an eighth of the work in a row.
const QUADS: u32 = X_GROUPS * 8u;

// Bytes j, j + STRIDE, ... of neighbouring lanes' words of four columns: a lane gives what others want and gets what it
// lacks (a transposition of bytes).
fn in_stride(word: u32, lane: u32) -> u32 {
  if (STRIDE == 1u) { return word; }
  let other = subgroupShuffleXor(word, 1u);
  let even = select(other, word, (lane & 1u) == 0u);  // the word of the even lane of the two, and of the odd one
  let odd = select(word, other, (lane & 1u) == 0u);
  let shift = (lane & 1u) * 8u;
  let a = (even >> shift) & 0x00ff00ffu;  // columns j and j + 2 of the even lane's four
  let b = (odd >> shift) & 0x00ff00ffu;
  if (STRIDE == 2u) { return (a & 0xffu) | ((a >> 8u) & 0xff00u) | ((b & 0xffu) << 16u) | ((b << 8u) & 0xff000000u); }
  // now a pair (even, odd) of columns j (low halves of a and b) and j + 2: lanes two apart keep one of them
  let low = (a & 0xffu) | ((b & 0xffu) << 8u);
  let high = (a >> 16u) | ((b >> 16u) << 8u);
  let upper = (lane & 2u) != 0u;
  let mine = select(low, high, upper);
  let theirs = subgroupShuffleXor(select(high, low, upper), 2u);
  return select(mine | (theirs << 16u), theirs | (mine << 16u), upper);
}

fn stage(token: u32, thread: u32) {
  for (var first = 0u; first < QUADS; first += WORKGROUP) {
    let quad = first + thread;
    let column = quad * 4u;
    var each = vec4<f32>();
    if (column < COLUMNS) { each = x4(token, column); }
    let v = each * norm[min(column, COLUMNS - 4u) / 4u];
    var largest = largest_of(abs(v));
    var sum = dot(each, each);
    for (var apart = 1u; apart < 8u; apart <<= 1u) {
      largest = max(largest, subgroupShuffleXor(largest, apart));
      sum += subgroupShuffleXor(sum, apart);
    }
    let scale = scale_for(largest);
    let word = in_stride(to_word(to_bytes(v, inverse_of(scale))), thread);
    let words = vec4<u32>(word, subgroupShuffleXor(word, 1u), subgroupShuffleXor(word, 2u), subgroupShuffleXor(word, 3u));
    if (quad < QUADS && thread % 4u == 0u) {
      row_words[quad / 4u] = words;
      if (thread % 8u == 0u) { row_facts[quad / 8u] = vec2<f32>(scale, sum); }
    }
  }
  workgroupBarrier();
}
