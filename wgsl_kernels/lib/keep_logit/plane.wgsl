// provides: keep_logit
// Every number goes to memory too.
@group(0) @binding(9) var<storage, read_write> y: array<f32>;
fn keep_logit(token: u32, row: u32, value: f32) { y[token * OUT_ROWS + ROW_OFFSET + row] = value; }
