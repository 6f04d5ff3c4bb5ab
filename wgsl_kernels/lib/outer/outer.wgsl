// provides: Sums, outer
// Sums of 4 rows (or positions, or dimensions) by 8 tokens in one lane's registers, and adding an outer product.
struct Sums { t0: mat4x4<f32>, t4: mat4x4<f32> }  // [row][token], tokens 0 to 3 and 4 to 7

fn outer(sum: Sums, w: vec4<f32>, a: vec4<f32>, b: vec4<f32>) -> Sums {
  return Sums(
    mat4x4<f32>(sum.t0[0] + w.x * a, sum.t0[1] + w.y * a, sum.t0[2] + w.z * a, sum.t0[3] + w.w * a),
    mat4x4<f32>(sum.t4[0] + w.x * b, sum.t4[1] + w.y * b, sum.t4[2] + w.z * b, sum.t4[3] + w.w * b));
}
