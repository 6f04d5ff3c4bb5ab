// Gaussian error linear unit, element by element; TANH chooses its usual approximation, which is a library file.
// needs: activate (activate)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read_write> y: array<y_type>;

// Abramowitz and Stegun 7.1.26, for a >= 0: 1 - erf(a) with an absolute error below 1.5e-7. WGSL has no erf.
fn erfc_positive(a: f32) -> f32 {
  let t = 1.0 / (1.0 + 0.3275911 * a);
  let p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return p * exp(-a * a);
}

fn gelu(v: f32) -> f32 {
  if (TANH) { return activate(v); }
  let tail = 0.5 * erfc_positive(min(abs(v) * 0.7071067812, 13.0));
  return v * select(1.0 - tail, tail, v < 0.0);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= WIDTH) { return; }
  let i = id.y * WIDTH + id.x;
  y[i] = y_type(gelu(f32(x[i])));
}
