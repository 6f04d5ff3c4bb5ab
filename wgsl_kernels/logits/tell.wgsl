// ln p of the chosen token and of the likeliest ones, without filters, into the step's row of `told`; the likeliest ones'
// ids into that of `told_ids`.
// needs: state (Rows)
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> token: array<u32>;
@group(0) @binding(2) var<storage, read> likely: array<u32>;
@group(0) @binding(3) var<storage, read> largest: array<f32>;
@group(0) @binding(4) var<storage, read> total: array<f32>;
@group(0) @binding(5) var<uniform> state: Rows;
@group(0) @binding(6) var<storage, read_write> told: array<f32>;
@group(0) @binding(7) var<storage, read_write> told_ids: array<u32>;

@compute @workgroup_size(1)
fn main() {
  var most = largest[0];
  for (var i = 1u; i < PARTS; i++) { most = max(most, largest[i]); }
  var sum = 0.0;
  for (var i = 0u; i < PARTS; i++) { sum += total[i] * exp(largest[i] - most); }
  let all = log(sum);
  if (state[0].steps < STEPS) {
    told[state[0].steps * (K + 1u)] = x[token[0]] - most - all;
    for (var i = 0u; i < K; i++) {
      told[state[0].steps * (K + 1u) + 1u + i] = x[likely[i]] - most - all;
      told_ids[state[0].steps * K + i] = likely[i];
    }
  }
}
