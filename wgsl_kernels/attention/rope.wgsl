// Rotary embedding: the pair (i, i + ROTATED / 2) of each head turns by the angle of its position, or, INTERLEAVED, the
// pair (2i, 2i + 1); the PASSED dimensions behind the first ROTATED stay as they are. Where BACK_TO is not 0, what is
// turned already is turned back to that position. Cosines and sines come from a table, because WGSL promises sin and cos
// only to 2^-11 and only near zero.
// needs: state (Rows)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read> table: array<f32>;  // [position][cosines, then sines]
@group(0) @binding(2) var<uniform> state: Rows;
@group(0) @binding(3) var<storage, read_write> y: array<y_type>;

const HALF: u32 = ROTATED / 2u;
const UNITS: u32 = HALF + PASSED;  // what threads take of a head: pairs, then single dimensions

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let token = id.y;
  let head = id.x / UNITS;
  let i = id.x % UNITS;
  if (head * HEAD_DIM >= WIDTH) { return; }
  let start = token * WIDTH + head * HEAD_DIM;
  if (i >= HALF) {
    y[start + i + HALF] = y_type(x[start + i + HALF]);
    return;
  }
  let first = start + select(i, 2u * i, INTERLEAVED);
  let second = first + select(HALF, 1u, INTERLEAVED);
  let position = state[token].position;
  let angle = min(position - min(position, BACK_TO), POSITIONS - 1u) * ROTATED;
  let c = table[angle + i];
  let s = select(1.0, -1.0, BACK_TO > 0u) * table[angle + HALF + i];
  let a = f32(x[first]);
  let b = f32(x[second]);
  y[first] = y_type(a * c - b * s);
  y[second] = y_type(b * c + a * s);
}
