// y[t, s, r] = sum_k norm[k] * x[t, k] * a[r, k] over the columns of slice s, with the rows of the adapter that the sequence
// of token t has, 0 where it has none. A slice is 256 columns, and so few that a thread loads all that it needs at once:
// rows by workgroups of their own took a load after the other (16 to 48 of them, 3.7 us, H200). The products that read y
// add the slices up, and multiply them with the norm's factor as their own sums.
//
// Where x is still to get what an adapter adds to it (lora_up), that is done in front, and x goes to memory.
// needs: x/vec4 (x4), weights (GROUPS, load_octet), scale_offset (scale_offset), row_state (row_of),
//   low_sums (low_ahead, add_low, low_sum), kept_row (keep_quad), add_up (add_up, sum_of)
@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> norm: array<vec4<f32>>;

const TEAM: u32 = WORKGROUP / TEAMS;
const SUMS: u32 = ROWS_PER_TEAM;
const STEPS: u32 = (32u + TEAM - 1u) / TEAM;
const LOW_SUMS: u32 = 256u;
fn low_place(token: u32, first: u32, slot: u32) -> vec2<u32> {
  return vec2<u32>(token, min(first + slot, COLUMNS - 1u));
}

// Eight columns of a token, of the norm, and of a team's rows.
struct Loaded {
  x: array<vec4<f32>, 2>,
  norm: array<vec4<f32>, 2>,
  lo: array<vec4<f32>, ROWS_PER_TEAM>,
  hi: array<vec4<f32>, ROWS_PER_TEAM>,
  scale: array<vec2<f32>, ROWS_PER_TEAM>,
}
fn load(token: u32, first_row: u32, column: u32) -> Loaded {
  var found: Loaded;
  let above = (max(row_of(token).real, 2u) - 2u) * RANKS;
  let octet = min(column / 8u, GROUPS * 4u - 1u);
  for (var i = 0u; i < ROWS_PER_TEAM; i++) {
    let row = above + min(first_row + i, RANKS - 1u);
    let w = load_octet(row, octet);
    found.lo[i] = w.lo;
    found.hi[i] = w.hi;
    found.scale[i] = scale_offset(row, octet * 8u / BLOCK);
  }
  for (var half = 0u; half < 2u; half++) {
    let at = column + half * 4u;
    if (at < COLUMNS) {
      found.x[half] = x4(token, at);
      found.norm[half] = norm[at / 4u];
    }
  }
  return found;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = id.y;
  let slice = id.x % SLICES;
  let first = slice * 256u;
  let group_row = id.x / SLICES * TEAMS * ROWS_PER_TEAM;
  let first_row = group_row + thread / TEAM * ROWS_PER_TEAM;
  let low = low_ahead(token, first, thread);
  let ahead = load(token, first_row, first + thread % TEAM * 8u);
  add_low(low, token, first, thread);
  var sums: array<f32, SUMS>;
  for (var step = 0u; step < STEPS; step++) {
    let octet = step * TEAM + thread % TEAM;
    let column = first + octet * 8u;
    if (octet < 32u) {
      var now = ahead;
      if (step > 0u) { now = load(token, first_row, column); }
      for (var half = 0u; half < 2u; half++) {
        let slot = octet * 8u + half * 4u;
        let made = now.x[half]
                 + vec4<f32>(low_sum(slot), low_sum(slot + 1u), low_sum(slot + 2u), low_sum(slot + 3u));
        if (first_row == 0u && first + slot < COLUMNS) { keep_quad(token, first + slot, made); }
        now.x[half] = made * now.norm[half];
      }
      let all = dot(now.x[0] + now.x[1], vec4<f32>(1.0));
      for (var i = 0u; i < ROWS_PER_TEAM; i++) {
        sums[i] += (dot(now.lo[i], now.x[0]) + dot(now.hi[i], now.x[1])) * now.scale[i].x + all * now.scale[i].y;
      }
    }
  }
  add_up(sums, thread);
  let chosen = row_of(token).real > 1u;
  for (var i = thread; i < TEAMS * ROWS_PER_TEAM; i += WORKGROUP) {
    if (group_row + i < RANKS) {
      let sum = sum_of(i / ROWS_PER_TEAM, i % ROWS_PER_TEAM);
      y[(token * SLICES + slice) * RANKS + group_row + i] = select(0.0, sum, chosen);
    }
  }
}
