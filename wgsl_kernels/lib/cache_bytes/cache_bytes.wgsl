// provides: bytes, to_places, from_places
// The four signed bytes of a word as floats, as in lib/magic, without a conversion: b0, b0 + 256 b1, b2, b2 + 256 b3. A byte
// that takes the one below it along needs no mask of its own, and drivers put both into a float's mantissa at once (PRMT on
// NVIDIA), so that a word takes ten operations. What that adds up is undone where it is cheap: `to_places` makes a query of
// such numbers, whose product with them is that of the query with the bytes, and `from_places` undoes it in their sums.
fn bytes(word: u32) -> vec4<f32> {
  let low = word ^ 0x80808080u;  // b + 128
  let high = low >> 16u;
  let floats = bitcast<vec4<f32>>(vec4<u32>(insertBits(0x4b000000u, low, 0u, 8u), insertBits(0x4b000000u, low, 0u, 16u),
                                            insertBits(0x4b000000u, high, 0u, 8u), insertBits(0x4b000000u, high, 0u, 16u)));
  return floats - vec4<f32>(8388736.0, 8421504.0, 8388736.0, 8421504.0);  // 2^23 + 128, and + 256 * 128
}
fn to_places(query: vec4<f32>) -> vec4<f32> {
  let upper = query.yw * 0.00390625;
  return vec4<f32>(query.x - upper.x, upper.x, query.z - upper.y, upper.y);
}
fn from_places(sums: vec4<f32>) -> vec4<f32> {
  let upper = (sums.yw - sums.xz) * 0.00390625;
  return vec4<f32>(sums.x, upper.x, sums.z, upper.y);
}
