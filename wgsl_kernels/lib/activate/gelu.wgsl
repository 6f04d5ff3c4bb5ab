// provides: activate
// GELU's usual approximation, 0.5 v (1 + tanh u) = v / (1 + exp(-2 u)), 2 u = 1.5957691216 (v + 0.044715 v^3): good far
// from zero too, where 1 + tanh u has lost its digits. What is no number stays none, told by its bits.
fn activate(v: f32) -> f32 {
  let c = clamp(v, -10.0, 10.0);  // beyond, the result is 0 or v to f32, and exp(89) may overflow
  let y = select(v, -10.0, v < -10.0) / (1.0 + exp(-1.5957691216 * (c + 0.044715 * c * c * c)));
  return select(y, v, (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u);
}
