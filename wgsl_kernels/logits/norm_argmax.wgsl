// The largest of each GROUP numbers of rms_norm(x) W^T and its row, the first of equals: norm, LM head and the first half
// of an argmax (argmax_reduce.wgsl is the other) in one dispatch for few tokens.
//
// Logits stay in registers (or go to memory too, `keep_logit`: for top_k.wgsl). A vocabulary of 128256 would be read
// again by a single workgroup, which has nothing to hide its loads behind (120 us, H100); this leaves it a number for
// each GROUP rows. A workgroup takes one group, in one pass or in several (lib/run_passes): a CPU's compiler unrolls
// nothing inside a loop of one pass, which costs half the speed of a product with INT4 weights (llvmpipe).
// needs: team_sums (within, SUMS), row_factor (row_factor), add_up (add_up, sum_of), keep_logit (keep_logit),
//   run_passes (run_passes)
@group(0) @binding(6) var<storage, read_write> largest: array<f32>;
@group(0) @binding(8) var<storage, read_write> index: array<u32>;

const AT_ONCE: u32 = TEAMS * ROWS_PER_TEAM;
const ROUNDS: u32 = (GROUP + AT_ONCE - 1u) / AT_ONCE;
var<private> best: f32;
var<private> found: u32;

fn weight_row(first: u32, i: u32) -> u32 { return within(first + i, ROWS, GROUP); }

// What the threads of one pass have of rows `first` to first + AT_ONCE.
fn compare(token: u32, first: u32, sums: array<f32, SUMS>, thread: u32) {
  add_up(sums, thread);
  let factor = row_factor(0u);
  for (var team = 0u; team < TEAMS; team++) {
    for (var i = 0u; i < ROWS_PER_TEAM; i++) {
      let row = first + team * ROWS_PER_TEAM + i;
      let v = sum_of(team, i) * factor;
      if (row < ROWS) {
        if (thread == (team * ROWS_PER_TEAM + i) % WORKGROUP) { keep_logit(token, row, v); }
        if (v > best) { best = v; found = row; }
      }
    }
  }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let group = id.x + id.z * 32768u;
  best = -3.4028234e38;  // the lowest f32
  found = group * GROUP;
  run_passes(token, found, thread);
  let slot = ROW_OFFSET / GROUP + group;
  if (thread == 0u && slot < GROUPS) {
    largest[token * GROUPS + slot] = best;
    index[token * GROUPS + slot] = ROW_OFFSET + found;
  }
}
