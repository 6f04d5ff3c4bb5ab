// Integer dot products of four on 16 numbers a thread that wait for nothing but themselves.
// Each product takes the sum before as its operand, so that no compiler computes it once for all.

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> factor: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

fn next(a: vec4<u32>, m: u32) -> vec4<u32> {
  return a + bitcast<vec4<u32>>(vec4<i32>(
    dot4I8Packed(a.x, m), dot4I8Packed(a.y, m), dot4I8Packed(a.z, m), dot4I8Packed(a.w, m)));
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let m = factor[0];
  let first = x[id.x] + vec4<u32>(0u, 1u, 2u, 3u);
  var a = first;
  var b = first + 4u;
  var c = first + 8u;
  var d = first + 12u;
  for (var step = 0u; step < STEPS; step += 4u) {
    a = next(a, m); b = next(b, m); c = next(c, m); d = next(d, m);
    a = next(a, m); b = next(b, m); c = next(c, m); d = next(d, m);
    a = next(a, m); b = next(b, m); c = next(c, m); d = next(d, m);
    a = next(a, m); b = next(b, m); c = next(c, m); d = next(d, m);
  }
  let total = (a + b) + (c + d);
  y[id.x] = total.x + total.y + total.z + total.w;
}
