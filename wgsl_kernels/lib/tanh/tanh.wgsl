// provides: tanh_of
// tanh |v| = 1 - 2 / (exp(2 |v|) + 1), good to 2^-20. WGSL promises its own to 1e-5 only, and it may overflow far from
// zero; here, beyond 20, it is 1 to the last bit. What is no number stays none: told by its bits, since compilers may take
// every float for a number.
fn tanh_of(v: f32) -> f32 {
  let a = abs(v);
  let t = 1.0 - 2.0 / (exp(2.0 * select(a, 20.0, a > 20.0)) + 1.0);
  let none = (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u;
  return select(select(t, -t, v < 0.0), v, none);
}
