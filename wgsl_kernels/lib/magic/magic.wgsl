// provides: MAGIC_BITS, MAGIC, masked
// Small integers to floats without a conversion, which many GPUs do at a quarter of the rate of other operations:
// 2^23 | n is the float 2^23 + n. A number that lies b bits up in its word comes out multiplied by 2^b; activations
// multiplied by 2^-b make up for it exactly, once for all rows.
const MAGIC_BITS = vec4<u32>(0x4b000000u);
const MAGIC = vec4<f32>(8388608.0);

fn masked(word: u32, mask: vec4<u32>) -> vec4<f32> {
  return bitcast<vec4<f32>>((vec4<u32>(word) & mask) | MAGIC_BITS) - MAGIC;
}
