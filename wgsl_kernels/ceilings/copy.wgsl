// Copies x [ELEMENTS] to y: what a kernel that reads as much as it writes can reach. 16 words a thread.

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * 1024u + lane;
  for (var step = 0u; step < 4u; step += 1u) {
    let at = first + step * 256u;
    y[at] = x[at];
  }
}
