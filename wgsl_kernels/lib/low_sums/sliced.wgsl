// provides: LOW_WIDTH, low_slices, low_ahead, add_low, low_sum
// needs: low_rank/plane (LORA_FOURS, low_part, lora_b_at, lora_x, has_adapter),
//   caller (LOW_SUMS, low_place)
// As low_sums/workgroup, for one token a workgroup and an A x that lies in many slices, whose sum it is: threads add the
// slices up first, since each of them in front of each sum would be read once for every row.
const LOW_WIDTH: u32 = LORA_WIDTH / 4u / LORA_SLICES;                                  // of A x, in vectors of four
const LOW_GROUPS: u32 = max(1u, min(min(8u, LORA_SLICES), WORKGROUP / LOW_WIDTH));     // of slices
const LOW_ITEMS: u32 = LOW_GROUPS * LOW_WIDTH;
const LOW_EACH: u32 = (LORA_SLICES + LOW_GROUPS - 1u) / LOW_GROUPS;                    // slices of a group
const LOW_AHEAD: u32 = min(LOW_EACH, 4u);
const LOW_LANES: u32 = min(4u, LORA_FOURS);
const LOW_PARTS: u32 = LOW_SUMS * LOW_LANES;
var<workgroup> low_slices: array<vec4<f32>, LOW_ITEMS>;
var<workgroup> low_parts: array<f32, LOW_PARTS>;
struct LowAhead { x: array<vec4<f32>, LOW_AHEAD>, b: vec4<f32> }

fn low_slice(token: u32, item: u32, i: u32) -> vec4<f32> {
  let slice = item / LOW_WIDTH + i * LOW_GROUPS;
  if (slice >= LORA_SLICES) { return vec4<f32>(); }
  return lora_x[token * (LORA_WIDTH / 4u) + slice * LOW_WIDTH + item % LOW_WIDTH];
}
fn low_ahead(token: u32, first: u32, thread: u32) -> LowAhead {
  var ahead: LowAhead;
  if (thread < LOW_ITEMS) {
    for (var i = 0u; i < LOW_AHEAD; i++) { ahead.x[i] = low_slice(token, thread, i); }
  }
  if (thread < LOW_PARTS) {
    ahead.b = lora_b_at(token, low_place(token, first, thread / LOW_LANES).y, thread % LOW_LANES);
  }
  return ahead;
}
fn add_low(ahead: LowAhead, token: u32, first: u32, thread: u32) {
  for (var turn = 0u; turn < (LOW_ITEMS + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let item = turn * WORKGROUP + thread;
    if (item >= LOW_ITEMS) { break; }
    var sum = vec4<f32>();
    var i = 0u;
    if (item == thread) {
      for (; i < LOW_AHEAD; i++) { sum += ahead.x[i]; }
    }
    for (; i < LOW_EACH; i++) { sum += low_slice(token, item, i); }
    low_slices[item] = sum;
  }
  workgroupBarrier();
  for (var turn = 0u; turn < (LOW_WIDTH + WORKGROUP - 1u) / WORKGROUP; turn++) {  // own columns of the groups
    let item = turn * WORKGROUP + thread;
    if (item >= LOW_WIDTH) { break; }
    var sum = vec4<f32>();
    for (var group = 0u; group < LOW_GROUPS; group++) { sum += low_slices[group * LOW_WIDTH + item]; }
    low_slices[item] = sum;
  }
  workgroupBarrier();
  for (var turn = 0u; turn < (LOW_PARTS + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let part = turn * WORKGROUP + thread;
    if (part >= LOW_PARTS) { break; }
    let row = low_place(token, first, part / LOW_LANES).y;
    let lane = part % LOW_LANES;
    var sum = 0.0;
    for (var i = lane; i < LORA_FOURS; i += LOW_LANES) {
      var b = ahead.b;
      if (part != thread || i != lane) { b = lora_b_at(token, row, i); }
      sum += dot(low_slices[low_part(row) * LORA_FOURS + i], b);
    }
    low_parts[part] = select(0.0, sum, has_adapter(token));
  }
  workgroupBarrier();
}
fn low_sum(slot: u32) -> f32 {
  var sum = 0.0;
  for (var lane = 0u; lane < LOW_LANES; lane++) { sum += low_parts[slot * LOW_LANES + lane]; }
  return sum;
}
