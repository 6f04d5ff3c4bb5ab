// y[r, k] = scale * (quant - zero): a weight written out in f32. A thread writes eight columns.
// needs: scale_offset (scale_offset), weights (load_octet)
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = id.y + id.z * 32768u;
  let index = id.x * 64u + thread;
  let column = index * 8u;
  if (column >= COLUMNS || row >= ROWS) { return; }
  let so = scale_offset(row, column / BLOCK);
  let w = load_octet(row, index);
  let lo = w.lo * so.x + so.y;
  let hi = w.hi * so.x + so.y;
  for (var i = 0u; i < 4u; i++) {
    if (column + i < COLUMNS) { y[row * COLUMNS + column + i] = lo[i]; }
    if (column + 4u + i < COLUMNS) { y[row * COLUMNS + column + 4u + i] = hi[i]; }
  }
}
