// y[t] = row ids[t] of the weight. Ids outside [ROW_OFFSET, ROW_OFFSET + ROWS) belong to another part of the table
// and are left alone. A thread writes eight columns.
// needs: scale_offset (scale_offset), weights (load_octet)
@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<y_type>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let column = id.x * 8u;
  let token = id.y;
  let row = ids[token] - ROW_OFFSET;  // wraps to a huge number below the range
  if (column >= COLUMNS || row >= ROWS) { return; }
  let so = scale_offset(row, column / BLOCK);
  let w = load_octet(row, id.x);
  let lo = w.lo * so.x + so.y;
  let hi = w.hi * so.x + so.y;
  for (var i = 0u; i < 4u; i++) {
    if (column + i < COLUMNS) { y[token * COLUMNS + column + i] = y_type(lo[i]); }
    if (column + 4u + i < COLUMNS) { y[token * COLUMNS + column + 4u + i] = y_type(hi[i]); }
  }
}
