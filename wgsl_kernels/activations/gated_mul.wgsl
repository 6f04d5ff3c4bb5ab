// y = activate(gate) * up, element by element; the activation comes as a library file.
// needs: activate (activate)
@group(0) @binding(0) var<storage, read> gate: array<gate_type>;
@group(0) @binding(1) var<storage, read> up: array<up_type>;
@group(0) @binding(2) var<storage, read_write> y: array<y_type>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= WIDTH) { return; }
  let i = id.y * WIDTH + id.x;
  y[i] = y_type(activate(f32(gate[i])) * f32(up[i]));
}
