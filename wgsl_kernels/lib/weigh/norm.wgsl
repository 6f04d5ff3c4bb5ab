// provides: weigh
// needs: norm_sum (squares, norm)
// Float activations are weighed with the norm as they are read.
fn weigh(v: vec4<f32>, column: u32) -> vec4<f32> {
  let factors = norm[min(column, COLUMNS - 4u) / 4u];  // before v is waited for
  squares += dot(v, v);
  return v * factors;
}
