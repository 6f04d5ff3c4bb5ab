// provides: sum_bytes
// The sum of sixteen signed bytes: what a zero-point is multiplied with.
const ONES: u32 = 0x01010101u;
fn sum_bytes(v: vec4<u32>) -> i32 {
  return dot4I8Packed(v.x, ONES) + dot4I8Packed(v.y, ONES) + dot4I8Packed(v.z, ONES) + dot4I8Packed(v.w, ONES);
}
