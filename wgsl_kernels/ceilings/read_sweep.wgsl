// Reads every word of x [ELEMENTS] once and writes one sum a thread: what a kernel that only reads can reach.
// Four loads of 16 bytes are in flight a thread, neighbours in the grid read neighbours in memory.

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  var total = vec4<u32>(0u);
  for (var step = 0u; step < STEPS; step += 4u) {
    let at = step * THREADS + id.x;
    let a = x[at];
    let b = x[at + THREADS];
    let c = x[at + 2u * THREADS];
    let d = x[at + 3u * THREADS];
    total += (a + b) + (c + d);
  }
  sums[id.x] = total.x + total.y + total.z + total.w;
}
