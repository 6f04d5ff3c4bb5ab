// provides: low_ahead, add_low, low_sum
// needs: low_rank/plane (LowQuads, low_quads, has_adapter, LORA_FOURS), caller (LOW_SUMS, low_place)
// What adapters add to all sums of a workgroup, by all of its threads: LOW_SUMS of them, of the tokens and rows that
// `low_place` names. Four lanes share a sum, so that of rank 16 a thread loads 16 bytes of B and no more: a loop over rows in
// front of their products waited for each of them (gate and up of an 8B took 36 us instead of 22, H200).
//
// `low_ahead` sends the loads, `add_low` uses them, with a barrier; from then on `low_sum` has the sums. Products that keep
// much in registers send them when they have their own sums: sent before, they left room for a workgroup less (5 us).
const LOW_LANES: u32 = min(4u, LORA_FOURS);
const LOW_PARTS: u32 = LOW_SUMS * LOW_LANES;
const LOW_TURNS: u32 = (LOW_PARTS + WORKGROUP - 1u) / WORKGROUP;  // parts that a thread adds up
const LOW_AHEAD: u32 = min(LOW_TURNS, 4u);                        // and whose first loads it sends ahead
var<workgroup> low_parts: array<f32, LOW_PARTS>;
alias LowAhead = array<LowQuads, LOW_AHEAD>;

fn low_load(token: u32, first: u32, part: u32, i: u32) -> LowQuads {
  let place = low_place(token, first, min(part, LOW_PARTS - 1u) / LOW_LANES);
  return low_quads(place.x, place.y, i);
}
fn low_ahead(token: u32, first: u32, thread: u32) -> LowAhead {
  var ahead: LowAhead;
  for (var turn = 0u; turn < LOW_AHEAD; turn++) {
    let part = turn * WORKGROUP + thread;
    if (part < LOW_PARTS) { ahead[turn] = low_load(token, first, part, part % LOW_LANES); }
  }
  return ahead;
}
fn add_low(ahead: LowAhead, token: u32, first: u32, thread: u32) {
  for (var turn = 0u; turn < LOW_TURNS; turn++) {
    let part = turn * WORKGROUP + thread;
    if (part < LOW_PARTS) {
      var sum = 0.0;
      var i = part % LOW_LANES;
      if (turn < LOW_AHEAD) {
        sum = dot(ahead[turn].x, ahead[turn].b);
        i += LOW_LANES;
      }
      for (; i < LORA_FOURS; i += LOW_LANES) {
        let quads = low_load(token, first, part, i);
        sum += dot(quads.x, quads.b);
      }
      low_parts[part] = select(0.0, sum, has_adapter(low_place(token, first, part / LOW_LANES).x));
    }
  }
  workgroupBarrier();
}
fn low_sum(slot: u32) -> f32 {
  var sum = 0.0;
  for (var lane = 0u; lane < LOW_LANES; lane++) { sum += low_parts[slot * LOW_LANES + lane]; }
  return sum;
}
