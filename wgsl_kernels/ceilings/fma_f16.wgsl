// fma_f32.wgsl in f16, on vectors, which hardware with packed halves takes two at a time.

@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read> factors: array<factors_type>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let m = vec4<x_type>(factors[0]);
  let n = vec4<x_type>(factors[1]);
  var a = vec4<x_type>(x[id.x]);
  var b = a + 1.0;
  var c = a + 2.0;
  var d = a + 3.0;
  for (var step = 0u; step < STEPS; step += 4u) {
    a = fma(a, m, n); b = fma(b, m, n); c = fma(c, m, n); d = fma(d, m, n);
    a = fma(a, m, n); b = fma(b, m, n); c = fma(c, m, n); d = fma(d, m, n);
    a = fma(a, m, n); b = fma(b, m, n); c = fma(c, m, n); d = fma(d, m, n);
    a = fma(a, m, n); b = fma(b, m, n); c = fma(c, m, n); d = fma(d, m, n);
  }
  let total = (vec4<f32>(a) + vec4<f32>(b)) + (vec4<f32>(c) + vec4<f32>(d));
  y[id.x] = total.x + total.y + total.z + total.w;
}
