// provides: activate
// SiLU.
fn activate(v: f32) -> f32 {
  let g = max(v, -88.0);  // below, the result is 0 to f32, and exp(89) may overflow
  return g / (1.0 + exp(-g));
}
