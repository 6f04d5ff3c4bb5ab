// INT4 weights times INT8 activations, 32 columns at a time. Low nibbles of a word are its even columns, high nibbles
// its odd ones, so activation words come in stride 2: even columns, then odd columns of each eight.
const PADDED: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK;
const GROUPS: u32 = PADDED / 32u;
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;

fn dot_group(row: u32, group: u32, a: vec4<u32>, b: vec4<u32>) -> i32 {
  let w = quants[row * GROUPS + group];
  let even = w & vec4<u32>(0x0f0f0f0fu);
  let odd = (w >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
  return dot4I8Packed(even.x, a.x) + dot4I8Packed(odd.x, a.y) + dot4I8Packed(even.y, a.z) + dot4I8Packed(odd.y, a.w)
       + dot4I8Packed(even.z, b.x) + dot4I8Packed(odd.z, b.y) + dot4I8Packed(even.w, b.z) + dot4I8Packed(odd.w, b.w);
}
