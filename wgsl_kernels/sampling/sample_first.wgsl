// Of each part of a row of logits the best key, and how many keys begin with each digit; a workgroup takes a part.
// needs: draw (Options, key_of), draw_bins (clear_bins, is_on, bins, BIN_WORDS)
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> seen: array<u32>;
@group(0) @binding(2) var<uniform> options: Options;
@group(0) @binding(3) var<storage, read_write> best: array<u32>;
@group(0) @binding(4) var<storage, read_write> bins_after: array<u32>;
@group(0) @binding(5) var<storage, read_write> cut: array<u32>;

// Numbers of a part.
const LENGTH: u32 = (WIDTH + PARTS - 1u) / PARTS;
var<workgroup> top: atomic<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let first = id.x * LENGTH;
  if (thread == 0u) { atomicStore(&top, 0u); }
  clear_bins(thread);
  workgroupBarrier();
  var mine = 0u;
  for (var turn = 0u; turn < (LENGTH + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = first + turn * WORKGROUP + thread;
    if (i >= min(first + LENGTH, WIDTH)) { break; }
    let key = key_of(i);
    mine = max(mine, key);
    if (is_on(0u)) { atomicAdd(&bins[key >> 24u], 1u); }
  }
  atomicMax(&top, mine);
  workgroupBarrier();
  for (var turn = 0u; turn < BIN_WORDS / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    bins_after[id.x * BIN_WORDS + i] = atomicLoad(&bins[i]);
  }
  if (thread == 0u) { best[id.x] = atomicLoad(&top); }
  if (id.x == 0u && thread == 0u) {
    cut[0] = 0u;
    cut[1] = options.top_k;
    cut[2] = 0u;
    cut[3] = 0u;
    cut[4] = 0u;
  }
}
