// read_sweep.wgsl with eight loads in flight a thread: it wins where latency is long and threads are few.

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  var total = vec4<u32>(0u);
  for (var step = 0u; step < STEPS; step += 8u) {
    let at = step * THREADS + id.x;
    let a = x[at];
    let b = x[at + THREADS];
    let c = x[at + 2u * THREADS];
    let d = x[at + 3u * THREADS];
    let e = x[at + 4u * THREADS];
    let f = x[at + 5u * THREADS];
    let g = x[at + 6u * THREADS];
    let h = x[at + 7u * THREADS];
    total += ((a + b) + (c + d)) + ((e + f) + (g + h));
  }
  sums[id.x] = total.x + total.y + total.z + total.w;
}
