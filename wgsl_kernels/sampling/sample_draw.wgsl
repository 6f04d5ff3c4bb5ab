// The token at a random share of the mass, given its sums over parts of the row: one workgroup goes through one part.
// needs: draw (Options, add, share_of, random_word, less, subtract, is_unusable), state (Rows),
//   draw_choose (sum_run, token_at)
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> seen: array<u32>;
@group(0) @binding(2) var<uniform> options: Options;
@group(0) @binding(3) var<uniform> state: Rows;
@group(0) @binding(4) var<storage, read> best: array<u32>;
@group(0) @binding(5) var<storage, read> sums: array<u32>;
@group(0) @binding(6) var<storage, read> lowest: array<u32>;
@group(0) @binding(7) var<storage, read_write> token: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(local_invocation_index) thread: u32) {
  let length = (WIDTH + PARTS - 1u) / PARTS;
  var largest = 0u;
  var total = vec2<u32>();
  for (var i = 0u; i < PARTS; i++) {
    largest = max(largest, best[i]);
    total = add(total, vec2<u32>(sums[2u * i], sums[2u * i + 1u]));
  }
  var rest = share_of(total, random_word(state[0].position + 1u));
  var part = 0u;
  for (var n = 0u; n < PARTS - 1u; n++) {
    let here = vec2<u32>(sums[2u * part], sums[2u * part + 1u]);
    if (less(rest, here)) { break; }
    rest = subtract(rest, here);
    part += 1u;
  }
  workgroupBarrier();  // see lib/draw_parts
  let first = min(part * length, WIDTH);
  let last = min(first + length, WIDTH);
  sum_run(first, last, largest, lowest[0], thread);
  workgroupBarrier();
  if (thread == 0u) {
    let drawn = token_at(first, last, rest, largest, lowest[0]);
    token[0] = drawn;
    seen[drawn >> 5u] |= 1u << (drawn & 31u);
    if (is_unusable(largest)) { seen[SEEN_WORDS - 1u] += 1u; }
  }
}
