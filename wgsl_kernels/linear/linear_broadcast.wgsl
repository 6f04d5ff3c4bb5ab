// y[t, r] = sum_k x[t, k] * w[r, k] (+ bias, + residual) for many tokens where a subgroup has exactly 8 lanes.
//
// Made for software adapters, whose loads are one scalar load a lane and whose barriers are expensive. A workgroup
// is one subgroup: lane l owns rows l, l+8, l+16, l+24 of 32 and all 8 tokens of the tile, in 64 registers. The 8
// lanes load 8 columns of 8 tokens once and hand them round with broadcasts, which cost one shuffle.
// needs: x/scalar (x1), tile_rows (weight_row, store_two), outer (Sums, outer), scale_offset (scale_offset),
//   weights (load_octet)
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

const APART: u32 = 8u;  // how far apart the rows of two sums that belong together stand in a tile

fn x_tokens(token: u32, column: u32) -> vec4<f32> {
  let last = TOKENS - 1u;
  return vec4<f32>(x1(min(token, last), column), x1(min(token + 1u, last), column),
                   x1(min(token + 2u, last), column), x1(min(token + 3u, last), column));
}


@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first_row = (id.x + id.z * 32768u) * 32u + lane;
  let token = id.y * 8u;
  let rows = vec4<u32>(weight_row(first_row), weight_row(first_row + 8u), weight_row(first_row + 16u),
                       weight_row(first_row + 24u));
  var sum: Sums;
  for (var first = 0u; first < COLUMNS; first += BLOCK) {
    let so0 = scale_offset(rows.x, first / BLOCK);
    let so1 = scale_offset(rows.y, first / BLOCK);
    let so2 = scale_offset(rows.z, first / BLOCK);
    let so3 = scale_offset(rows.w, first / BLOCK);
    let scale = vec4<f32>(so0.x, so1.x, so2.x, so3.x);
    let offset = vec4<f32>(so0.y, so1.y, so2.y, so3.y);
    for (var column = first; column < min(first + BLOCK, COLUMNS); column += 8u) {
      let a = x_tokens(token, column + lane);
      let b = x_tokens(token + 4u, column + lane);
      let w0 = load_octet(rows.x, column >> 3u);
      let w1 = load_octet(rows.y, column >> 3u);
      let w2 = load_octet(rows.z, column >> 3u);
      let w3 = load_octet(rows.w, column >> 3u);
      sum = outer(sum, vec4<f32>(w0.lo.x, w1.lo.x, w2.lo.x, w3.lo.x) * scale + offset,
                  subgroupBroadcast(a, 0u), subgroupBroadcast(b, 0u));
      sum = outer(sum, vec4<f32>(w0.lo.y, w1.lo.y, w2.lo.y, w3.lo.y) * scale + offset,
                  subgroupBroadcast(a, 1u), subgroupBroadcast(b, 1u));
      sum = outer(sum, vec4<f32>(w0.lo.z, w1.lo.z, w2.lo.z, w3.lo.z) * scale + offset,
                  subgroupBroadcast(a, 2u), subgroupBroadcast(b, 2u));
      sum = outer(sum, vec4<f32>(w0.lo.w, w1.lo.w, w2.lo.w, w3.lo.w) * scale + offset,
                  subgroupBroadcast(a, 3u), subgroupBroadcast(b, 3u));
      sum = outer(sum, vec4<f32>(w0.hi.x, w1.hi.x, w2.hi.x, w3.hi.x) * scale + offset,
                  subgroupBroadcast(a, 4u), subgroupBroadcast(b, 4u));
      sum = outer(sum, vec4<f32>(w0.hi.y, w1.hi.y, w2.hi.y, w3.hi.y) * scale + offset,
                  subgroupBroadcast(a, 5u), subgroupBroadcast(b, 5u));
      sum = outer(sum, vec4<f32>(w0.hi.z, w1.hi.z, w2.hi.z, w3.hi.z) * scale + offset,
                  subgroupBroadcast(a, 6u), subgroupBroadcast(b, 6u));
      sum = outer(sum, vec4<f32>(w0.hi.w, w1.hi.w, w2.hi.w, w3.hi.w) * scale + offset,
                  subgroupBroadcast(a, 7u), subgroupBroadcast(b, 7u));
    }
  }
  for (var pair = 0u; pair < 2u; pair++) {
    let r = pair * 2u;
    for (var t = 0u; t < 4u; t++) {
      store_two(token + t, first_row + 8u * r, vec2<f32>(sum.t0[r][t], sum.t0[r + 1u][t]));
      store_two(token + 4u + t, first_row + 8u * r, vec2<f32>(sum.t4[r][t], sum.t4[r + 1u][t]));
    }
  }
}
