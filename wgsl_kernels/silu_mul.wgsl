// y = gate / (1 + exp(-gate)) * up, element by element.
@group(0) @binding(0) var<storage, read> gate: array<gate_type>;
@group(0) @binding(1) var<storage, read> up: array<up_type>;
@group(0) @binding(2) var<storage, read_write> y: array<y_type>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= WIDTH) { return; }
  let i = id.y * WIDTH + id.x;
  let g = max(f32(gate[i]), -88.0);  // below, the result is 0 to f32, and exp(89) may overflow
  y[i] = y_type(g / (1.0 + exp(-g)) * f32(up[i]));
}
