// provides: exp_of, log_quotient, log_of
// exp and log to about one unit in the last place, where WGSL's own may be off by 3 + 2|x| units and by 2^-21: GPUs take
// powers of two of x log2(e), a product that has lost its last bits by then. What is left of a range goes in two parts of
// ln 2, of which the first times a whole number is exact (Cody and Waite 1980), so that fused products change nothing.
const LN2_HIGH: f32 = 0.693359375;
const LN2_LOW: f32 = -2.1219444e-4;

// exp(x) for x <= 0; 0 below -87, where f32 ends. |r| <= ln(2) / 2, and the series ends at a relative 5e-9.
fn exp_of(x: f32) -> f32 {
  let kept = max(x, -87.0);
  let n = round(kept * 1.442695);
  let r = (kept - n * LN2_HIGH) - n * LN2_LOW;
  let series = 0.5 + r * (0.16666667 + r * (0.041666668 + r * (8.3333338e-3 + r * (1.3888889e-3 + r * 1.984127e-4))));
  let power = bitcast<f32>(bitcast<i32>(1.0 + (r + r * r * series)) + (i32(n) << 23u));
  return select(power, 0.0, x < -87.0);
}

// log((1 + s) / (1 - s)) = 2 artanh(s) for |s| < 0.1716, which is (sqrt(2) - 1) / (sqrt(2) + 1).
fn log_quotient(s: f32) -> f32 {
  let z = s * s;
  let series = z * (0.33333334 + z * (0.2 + z * (0.14285715 + z * (0.11111111 + z * 0.09090909))));
  return 2.0 * (s + s * series);
}

// log(x) for normal x, with a mantissa between sqrt(1/2) and sqrt(2).
fn log_of(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let above = (bits & 0x7fffffu) > 0x3504f3u;
  let m = bitcast<f32>((bits & 0x7fffffu) | select(0x3f800000u, 0x3f000000u, above));
  let n = f32(i32(bits >> 23u) - select(127, 126, above));
  return n * LN2_HIGH + (log_quotient((m - 1.0) / (m + 1.0)) + n * LN2_LOW);
}
