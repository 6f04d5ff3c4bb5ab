// Activations to INT8, symmetric: q = clamp(round(x / scale), -127, 127), four a word, with one scale a block of
// BLOCK columns. Dynamic: scale = max |x| / 127 of the block. Static: the given scale. A thread takes one block.
//
// STRIDE is the order that a weight format's unpacking asks for: of each 4 * STRIDE columns, word j holds columns j,
// j + STRIDE, j + 2 * STRIDE, j + 3 * STRIDE. 1 is the natural order.
// needs: to_bytes (scale_for, to_word, to_bytes, inverse_of)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read_write> quants: array<u32>;
@group(0) @binding(2) var<storage, read_write> scales: array<f32>;


fn value(token: u32, column: u32) -> f32 {
  if (column >= WIDTH) { return 0.0; }
  return f32(x[token * WIDTH + column]);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let token = id.y;
  let block = id.x;
  if (block >= BLOCKS) { return; }
  let first = block * BLOCK;
  var scale = STATIC_SCALE;
  if (STATIC_SCALE <= 0.0) {
    var largest = 0.0;
    for (var i = 0u; i < BLOCK; i++) { largest = max(largest, abs(value(token, first + i))); }
    scale = scale_for(largest);
  }
  scales[token * BLOCKS + block] = scale;
  for (var word = 0u; word < (BLOCK + 3u) / 4u; word++) {
    let i = word * 4u;
    let column = first + i / (4u * STRIDE) * (4u * STRIDE) + (i / 4u) % STRIDE;
    let v = vec4<f32>(value(token, column), value(token, column + STRIDE),
                      value(token, column + 2u * STRIDE), value(token, column + 3u * STRIDE));
    quants[(token * BLOCKS * BLOCK + first + i) >> 2u] = to_word(to_bytes(v, inverse_of(scale)));
  }
}
