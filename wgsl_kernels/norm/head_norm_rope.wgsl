// `head_norm`, and the rotary embedding of its result (rope.wgsl): a workgroup takes one head of one token.
// needs: state (Rows), head_factor (head_factor), head_weight (weight_at)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(2) var<storage, read> table: array<f32>;  // [position][cosines, then sines]
@group(0) @binding(3) var<uniform> state: Rows;
@group(0) @binding(4) var<storage, read_write> y: array<y_type>;

const HALF: u32 = ROTATED / 2u;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let start = id.y * WIDTH + id.x * HEAD_DIM;
  let factor = head_factor(start, thread);
  let angle = min(state[id.y].position, POSITIONS - 1u) * ROTATED;
  for (var turn = 0u; turn < (HALF + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= HALF) { break; }
    let c = table[angle + i];
    let s = table[angle + HALF + i];
    let a = f32(x[start + i]) * factor * weight_at(i);
    let b = f32(x[start + i + HALF]) * factor * weight_at(i + HALF);
    y[start + i] = y_type(a * c - b * s);
    y[start + i + HALF] = y_type(b * c + a * s);
  }
  for (var i = ROTATED + thread; i < HEAD_DIM; i += WORKGROUP) {
    y[start + i] = y_type(f32(x[start + i]) * factor * weight_at(i));
  }
}
