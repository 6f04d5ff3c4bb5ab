// The parts of `attention_split` put together: y = sum_s e_s sums_s / sum_s e_s total_s, e_s = exp(largest_s - largest).
// Four dimensions of one head.
fn reduced(head: u32, quad: u32) -> vec4<f32> {
  var largest = stats[head * SPLITS].x;
  for (var s = 1u; s < SPLITS; s++) { largest = max(largest, stats[head * SPLITS + s].x); }
  var total = 0.0;
  var sum = vec4<f32>();
  for (var s = 0u; s < SPLITS; s++) {
    let at = head * SPLITS + s;
    let part = stats[at];
    if (part.y == 0.0) { break; }  // parts without positions are the last ones
    let weight = exp(part.x - largest);
    total += weight * part.y;
    sum += weight * sums[at * QUADS + quad];
  }
  return sum / total;
}
