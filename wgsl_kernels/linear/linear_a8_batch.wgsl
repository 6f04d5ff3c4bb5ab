// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) with both operands integers, for 2 to 32 tokens: a team of threads
// computes ROWS_PER_TEAM rows of BATCH tokens, and TEAMS of them share a workgroup.
//
// A thread takes 32 columns of its rows at a time, unpacks them once, and multiplies them with every token of the batch.
// Activations, which all teams want, go through workgroup memory, with the sums of their bytes: read from global memory by
// each thread they lie 32 bytes apart, which is a cache line for every four threads, and with four rows a thread their
// sums are a fifth of all integer dot products. What comes next, weights and activations, is on its way while a team
// computes. Without this, 32 tokens of 4096x14336 in INT4 took 90 us instead of 62 (H200).
// needs: packed (Bytes, Packed, packed_at, unpacked), block_scale (BlockScale, block_scale_at, scale_zero_of),
//   affine (scaled, block_sum), x_a8/buffer (x_words, x_scale), sum_bytes (sum_bytes),
//   from_bits (from_bits, FIRST_BITS), batch_sums (SUMS, store_batch)
const TEAM: u32 = WORKGROUP / TEAMS;
const CHUNK: u32 = max(32u, TEAM);  // pieces of 32 columns that are in workgroup memory at a time
const CHUNKS: u32 = (X_GROUPS + CHUNK - 1u) / CHUNK;
const STEPS: u32 = CHUNK / TEAM;
const BATCHES: u32 = (TOKENS + BATCH - 1u) / BATCH;
const STAGED: u32 = BATCH * CHUNK;
const BROUGHT: u32 = (STAGED + WORKGROUP - 1u) / WORKGROUP;  // of what is staged a thread brings
var<workgroup> x_first: array<vec4<u32>, STAGED>;   // [token][piece], 16 of its 32 columns
var<workgroup> x_second: array<vec4<u32>, STAGED>;  // the others
var<workgroup> x_facts: array<vec2<f32>, STAGED>;   // scale, sum of the quants

struct Weights { w: Packed, scale: BlockScale }
struct Activations { a: vec4<u32>, b: vec4<u32>, scale: f32 }

fn weights_at(first: u32, piece: u32) -> array<Weights, ROWS_PER_TEAM> {
  var loaded: array<Weights, ROWS_PER_TEAM>;
  for (var i = 0u; i < ROWS_PER_TEAM; i++) {
    let row = min(first + i, ROWS - 1u);
    loaded[i] = Weights(packed_at(row, piece), block_scale_at(row, piece * 32u / BLOCK));
  }
  return loaded;
}

fn brought(first_token: u32, chunk: u32, thread: u32) -> array<Activations, BROUGHT> {
  var loaded: array<Activations, BROUGHT>;
  for (var i = 0u; i < BROUGHT; i++) {
    let at = i * WORKGROUP + thread;
    let token = min(first_token + at / CHUNK, TOKENS - 1u);
    let piece = min(chunk * CHUNK + at % CHUNK, X_GROUPS - 1u);
    loaded[i] = Activations(x_words(token, piece * 2u), x_words(token, piece * 2u + 1u), x_scale(token, piece));
  }
  return loaded;
}

fn stage(loaded: array<Activations, BROUGHT>, thread: u32) {
  for (var i = 0u; i < BROUGHT; i++) {
    let at = i * WORKGROUP + thread;
    if (STAGED % WORKGROUP == 0u || at < STAGED) {
      x_first[at] = loaded[i].a;
      x_second[at] = loaded[i].b;
      x_facts[at] = vec2<f32>(loaded[i].scale, f32(sum_bytes(loaded[i].a) + sum_bytes(loaded[i].b)));
    }
  }
}

fn dot_of(w: Bytes, a: vec4<u32>, b: vec4<u32>) -> f32 {
  let sum = FIRST_BITS + dot4I8Packed(w.a.x, a.x) + dot4I8Packed(w.a.y, a.y) + dot4I8Packed(w.a.z, a.z)
          + dot4I8Packed(w.a.w, a.w) + dot4I8Packed(w.b.x, b.x) + dot4I8Packed(w.b.y, b.y)
          + dot4I8Packed(w.b.z, b.z) + dot4I8Packed(w.b.w, b.w);
  return from_bits(sum);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  // batches of the same rows run side by side, so that weights are read from memory once
  let group = id.x + id.z * 32768u;
  let first_token = group % BATCHES * BATCH;
  let group_first = group / BATCHES * TEAMS * ROWS_PER_TEAM;
  let first = group_first + thread / TEAM * ROWS_PER_TEAM;
  let lane = thread % TEAM;
  var ahead = weights_at(first, min(lane, X_GROUPS - 1u));
  var x_ahead = brought(first_token, 0u, thread);
  var sums: array<f32, SUMS>;
  for (var chunk = 0u; chunk < CHUNKS; chunk++) {
    stage(x_ahead, thread);
    workgroupBarrier();
    if (chunk + 1u < CHUNKS) { x_ahead = brought(first_token, chunk + 1u, thread); }
    for (var step = 0u; step < STEPS; step++) {
      let loaded = ahead;
      let own = step * TEAM + lane;
      let piece = chunk * CHUNK + own;
      ahead = weights_at(first, min(piece + TEAM, X_GROUPS - 1u));
      if (X_GROUPS % CHUNK == 0u || piece < X_GROUPS) {
        var w: array<Bytes, ROWS_PER_TEAM>;
        var scale_zero: array<vec2<f32>, ROWS_PER_TEAM>;
        for (var i = 0u; i < ROWS_PER_TEAM; i++) {
          w[i] = unpacked(loaded[i].w);
          scale_zero[i] = scale_zero_of(loaded[i].scale);
        }
        for (var t = 0u; t < BATCH; t++) {
          let a = x_first[t * CHUNK + own];
          let b = x_second[t * CHUNK + own];
          let facts = x_facts[t * CHUNK + own];
          for (var i = 0u; i < ROWS_PER_TEAM; i++) {
            sums[t * ROWS_PER_TEAM + i] += block_sum(scaled(scale_zero[i], facts.x), dot_of(w[i], a, b), facts.y);
          }
        }
      }
    }
    workgroupBarrier();
  }
  store_batch(sums, first_token, group_first, thread);
}
