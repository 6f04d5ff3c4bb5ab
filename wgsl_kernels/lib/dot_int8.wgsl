// INT8 weights times INT8 activations, 32 columns at a time; activation words in natural order (stride 1).
const PADDED: u32 = (COLUMNS + BLOCK - 1u) / BLOCK * BLOCK;
const GROUPS: u32 = PADDED / 32u;
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;

fn dot_group(row: u32, group: u32, a: vec4<u32>, b: vec4<u32>) -> i32 {
  let i = (row * GROUPS + group) * 2u;
  let p = quants[i];
  let q = quants[i + 1u];
  return dot4I8Packed(p.x, a.x) + dot4I8Packed(p.y, a.y) + dot4I8Packed(p.z, a.z) + dot4I8Packed(p.w, a.w)
       + dot4I8Packed(q.x, b.x) + dot4I8Packed(q.y, b.y) + dot4I8Packed(q.z, b.z) + dot4I8Packed(q.w, b.w);
}
