// Logits with noise, whose largest are a sample of tokens without replacement: x - ln(u), u uniform in (0, 1], one u for
// each seed and token. Tokens down to a given one in the order of a top-k are left out. Token t goes to stratum t % STRATA,
// in which it is number t / STRATA; strata lie one after another. Element by element.
// needs: exp_log (log_of)
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read> last_value: array<f32>;
@group(0) @binding(2) var<storage, read> last_index: array<u32>;
@group(0) @binding(3) var<storage, read> seeds: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

// The finaliser of MurmurHash3 (Appleby), which mixes every bit of its input into every bit of its result.
fn mixed(value: u32) -> u32 {
  var h = value;
  h = (h ^ (h >> 16u)) * 0x85ebca6bu;
  h = (h ^ (h >> 13u)) * 0xc2b2ae35u;
  return h ^ (h >> 16u);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= PLACES) { return; }
  let row = id.y;
  let token = id.x % (PLACES / STRATA) * STRATA + id.x / (PLACES / STRATA);
  let value = f32(x[row * WIDTH + min(token, WIDTH - 1u)]);
  let last = last_value[row];
  let drawn = mixed(mixed(token) ^ seeds[row]);
  let u = (f32(drawn >> 8u) + 0.5) * 0x1p-24f;
  let taken = value > last || (value == last && token <= last_index[row]);
  y[row * PLACES + id.x] = select(value - log_of(u), -3.4028234e38, taken || token >= WIDTH);
}
