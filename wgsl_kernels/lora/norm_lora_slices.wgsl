// y[t, s, r] = sum_k norm[k] * x[t, k] * a[r, k] over the columns of slice s, with the rows of the adapter that the sequence
// of token t has, 0 where it has none. A slice is 256 columns, and so few that a thread loads all that it needs at once:
// rows by workgroups of their own took a load after the other. The products that read y add the slices up, and multiply
// them with the norm's factor as their own sums.
//
// Where x is still to get what an adapter adds to it (lora_up), that is done in front, and x goes to memory. Where the
// products read INT8, the weighed row is quantized here (lib/hand_on), and a slice ends with the squares of x, BEHIND
// numbers more.
// needs: x/vec4 (x4), weights (GROUPS, load_octet), scale_offset (scale_offset), row_state (row_of),
//   low_sums (low_ahead, add_low, low_sum), kept_row (keep_quad), hand_on (hand_on), add_up (add_up, sum_of)
@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> norm: array<vec4<f32>>;

const TEAM: u32 = WORKGROUP / TEAMS;
const SUMS: u32 = ROWS_PER_TEAM + 1u;  // of squares too
const STEPS: u32 = (32u + TEAM - 1u) / TEAM;
const LOW_SUMS: u32 = 256u;
fn low_place(token: u32, first: u32, slot: u32) -> vec2<u32> {
  return vec2<u32>(token, min(first + slot, COLUMNS - 1u));
}

// Eight columns of a team's rows, before scales and offsets.
struct Rows8 {
  lo: array<vec4<f32>, ROWS_PER_TEAM>,
  hi: array<vec4<f32>, ROWS_PER_TEAM>,
  scale: array<vec2<f32>, ROWS_PER_TEAM>,
}
fn rows_at(token: u32, first_row: u32, column: u32) -> Rows8 {
  var found: Rows8;
  var above = 0u;
  if (ROWS > RANKS) { above = (max(row_of(token).real, 2u) - 2u) * RANKS; }  // of one adapter nothing waits for the state
  let octet = min(column / 8u, GROUPS * 4u - 1u);
  for (var i = 0u; i < ROWS_PER_TEAM; i++) {
    let row = above + min(first_row + i, RANKS - 1u);
    let w = load_octet(row, octet);
    found.lo[i] = w.lo;
    found.hi[i] = w.hi;
    found.scale[i] = scale_offset(row, octet * 8u / BLOCK);
  }
  return found;
}

// The slice, weighed with the norm; what lies behind the row is 0.
var<workgroup> weighed: array<vec4<f32>, 64>;
var<workgroup> squares: array<f32, 64>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let slice = id.x % SLICES;
  let first = slice * 256u;
  let group_row = id.x / SLICES * TEAMS * ROWS_PER_TEAM;
  let first_row = group_row + thread / TEAM * ROWS_PER_TEAM;
  let lane = thread % TEAM;
  // all that comes from memory is on its way before the first of it is waited for
  let low = low_ahead(token, first, thread);
  let ahead = rows_at(token, first_row, first + lane * 8u);
  let own = min(first + thread * 4u, COLUMNS - 4u);
  let x_ahead = x4(token, own);
  let norm_ahead = norm[own / 4u];
  add_low(low, token, first, thread);
  for (var turn = 0u; turn < (64u + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let quad = turn * WORKGROUP + thread;
    if (quad >= 64u) { break; }
    let column = first + quad * 4u;
    var v = vec4<f32>();
    var factors = norm_ahead;
    if (column < COLUMNS) {
      v = x_ahead;
      if (quad != thread) {
        factors = norm[column / 4u];
        v = x4(token, column);
      }
      let slot = quad * 4u;
      v += vec4<f32>(low_sum(slot), low_sum(slot + 1u), low_sum(slot + 2u), low_sum(slot + 3u));
      if (group_row == 0u) { keep_quad(token, column, v); }
    }
    squares[quad] = dot(v, v);
    weighed[quad] = v * factors;
  }
  workgroupBarrier();
  if (group_row == 0u) { hand_on(token, slice, thread); }
  var sums: array<f32, SUMS>;
  for (var step = 0u; step < STEPS; step++) {
    let octet = step * TEAM + lane;
    if (octet < 32u) {
      var w = ahead;
      if (step > 0u) { w = rows_at(token, first_row, first + octet * 8u); }
      let lo = weighed[octet * 2u];
      let hi = weighed[octet * 2u + 1u];
      sums[ROWS_PER_TEAM] += squares[octet * 2u] + squares[octet * 2u + 1u];
      let all = dot(lo + hi, vec4<f32>(1.0));
      for (var i = 0u; i < ROWS_PER_TEAM; i++) {
        sums[i] += (dot(w.lo[i], lo) + dot(w.hi[i], hi)) * w.scale[i].x + all * w.scale[i].y;
      }
    }
  }
  add_up(sums, thread);
  let chosen = row_of(token).real > 1u;
  let to = token * SLICE_RANKS + slice * (RANKS + BEHIND);
  for (var turn = 0u; turn < (TEAMS * ROWS_PER_TEAM + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= TEAMS * ROWS_PER_TEAM) { break; }
    if (group_row + i < RANKS) {
      let sum = sum_of(i / ROWS_PER_TEAM, i % ROWS_PER_TEAM);
      y[to + group_row + i] = select(0.0, sum, chosen);
    }
  }
  if (group_row == 0u && thread < BEHIND) { y[to + RANKS + thread] = select(0.0, sum_of(0u, ROWS_PER_TEAM), thread == 0u); }
}
