// Pairs of a token and an expert, sorted by expert and then by token: each expert's thread counts its pairs, finds out how
// many stand before them, and writes them down. There are few pairs, and every thread reads the same one at a time.
// needs: expert_score (expert_score)
@group(0) @binding(0) var<storage, read> experts: array<u32>;
@group(0) @binding(1) var<storage, read_write> order: array<vec2<u32>>;  // pair, and the bits of its score
@group(0) @binding(2) var<storage, read_write> starts: array<u32>;       // first pair of each expert, and the end

const PAIRS: u32 = TOKENS * CHOSEN;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let expert = id.x;
  if (expert >= COUNT) { return; }
  var before = 0u;
  var own = 0u;
  for (var pair = 0u; pair < PAIRS; pair++) {
    let other = experts[pair];
    before += u32(other < expert);
    own += u32(other == expert);
  }
  starts[expert] = before;
  if (expert == COUNT - 1u) { starts[COUNT] = PAIRS; }
  var at = before;
  for (var pair = 0u; pair < PAIRS; pair++) {
    if (experts[pair] == expert) {
      order[at] = vec2<u32>(pair, bitcast<u32>(expert_score(pair)));
      at++;
    }
  }
}
