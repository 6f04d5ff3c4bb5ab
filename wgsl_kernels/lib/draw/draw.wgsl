// provides: Options, GREEDY, NUCLEUS, EVERY, key_of, is_unusable, add, subtract, less, share_of, weight_of, left_of,
//   random_word
// needs: caller (x, options, seen)
// Keys and weights of logits, and sums of weights, in integers: the arithmetic of drawing.py, step by step. What includes
// this binds `x` (logits), `seen` (a bit a token) and `options`.
struct Options {
  seed_low: u32, seed_high: u32, flags: u32, top_k: u32, top_p: u32,
  scale: f32, cutoff: f32, farthest: f32, penalty: f32, inverse: f32, unused_a: u32, unused_b: u32,
}
const GREEDY: u32 = 1u;
const NUCLEUS: u32 = 2u;
const EVERY: u32 = 0xffffffffu;

// Bits of a number, of zeros and subnormal numbers 0, since a device may flush those.
fn normal_bits(bits: u32) -> u32 { return select(bits, 0u, (bits & 0x7f800000u) == 0u); }

fn key_of(i: u32) -> u32 {
  var bits = normal_bits(bitcast<u32>(x[i]));
  let is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  if (options.penalty != 1.0 && ((seen[i >> 5u] >> (i & 31u)) & 1u) == 1u) {
    let factor = select(options.inverse, options.penalty, bits > 0x7fffffffu);
    bits = normal_bits(bitcast<u32>(bitcast<f32>(bits) * factor));
  }
  return select(select(bits | 0x80000000u, ~bits, bits > 0x7fffffffu), EVERY, is_nan);
}

fn score_of(key: u32) -> f32 { return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u)); }

fn is_unusable(best: u32) -> bool { return best >= 0xff800000u || best <= 0x007fffffu; }

fn multiply_high(a: u32, b: u32) -> u32 {
  let low = (a & 0xffffu) * (b & 0xffffu);
  let middle = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
  let other = (a & 0xffffu) * (b >> 16u) + (middle & 0xffffu);
  return (a >> 16u) * (b >> 16u) + (middle >> 16u) + (other >> 16u);
}

// ---- 64 bits as (low, high) ------------------------------------------------------------------------------------

fn add(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let low = a.x + b.x;
  return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}
fn subtract(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  return vec2<u32>(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}
fn less(a: vec2<u32>, b: vec2<u32>) -> bool { return a.y < b.y || (a.y == b.y && a.x < b.x); }
// value * share / 2^32
fn share_of(value: vec2<u32>, share: u32) -> vec2<u32> {
  let above = vec2<u32>(value.y * share, multiply_high(value.y, share));
  return add(above, vec2<u32>(multiply_high(value.x, share), 0u));
}

// ---- weights ---------------------------------------------------------------------------------------------------

// The weight of a key below the best one; 0 where its probability is halved more often than `most` times.
fn weight_within(key: u32, best: u32, most: f32) -> vec2<u32> {
  let distance = bitcast<f32>(normal_bits(bitcast<u32>(score_of(best) - score_of(key))));
  if (!(distance < options.cutoff)) { return vec2<u32>(); }
  let halved = distance * options.scale;
  if (halved > most || halved >= 42.0) { return vec2<u32>(); }
  let whole = u32(halved * 67108864.0);
  let part = (whole & 0x3ffffffu) << 6u;
  var power = 23239u;
  power = 316243u - multiply_high(part, power);
  power = 2851416u - multiply_high(part, power);
  power = 20649271u - multiply_high(part, power);
  power = 119192779u - multiply_high(part, power);
  power = 515882323u - multiply_high(part, power);
  power = 1488522228u - multiply_high(part, power);
  power = 2147483648u - multiply_high(part, power);
  let down = whole >> 26u;
  let low = power << 10u;
  let high = power >> 22u;
  if (down >= 32u) { return vec2<u32>(high >> (down - 32u), 0u); }
  if (down == 0u) { return vec2<u32>(low, high); }
  return vec2<u32>((low >> down) | (high << (32u - down)), high >> down);
}
fn weight_of(key: u32, best: u32) -> vec2<u32> { return weight_within(key, best, 3.4028234e38); }
// 0 for what a filter removes; lowest: the key that top-k and top-p leave at least.
fn left_of(i: u32, best: u32, lowest: u32) -> vec2<u32> {
  let key = key_of(i);
  if (key < lowest) { return vec2<u32>(); }
  return weight_within(key, best, options.farthest);
}

// ---- Philox4x32-10 (Salmon et al. 2011) ------------------------------------------------------------------------

fn random_word(position: u32) -> u32 {
  if ((options.flags & GREEDY) != 0u) { return 0u; }
  var key = vec2<u32>(options.seed_low, options.seed_high);
  var counter = vec4<u32>(position, 0u, 0u, 0u);
  for (var i = 0u; i < 10u; i++) {
    let first = multiply_high(0xd2511f53u, counter.x);
    let second = multiply_high(0xcd9e8d57u, counter.z);
    counter = vec4<u32>(
      second ^ counter.y ^ key.x, 0xcd9e8d57u * counter.z, first ^ counter.w ^ key.y, 0xd2511f53u * counter.x);
    key += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
  }
  return counter.x;
}
