// provides: scale_for, inverse_of, to_bytes, to_word, largest_of
// Symmetric INT8, q = clamp(round(v / scale), -127, 127) with scale = max |v| / 127: four numbers as bytes, and as a word.
fn scale_for(largest: f32) -> f32 { return largest / 127.0; }
fn inverse_of(scale: f32) -> f32 { return select(0.0, 1.0 / scale, scale > 0.0); }
fn to_bytes(v: vec4<f32>, inverse: f32) -> vec4<u32> {
  return vec4<u32>(vec4<i32>(clamp(round(v * inverse), vec4<f32>(-127.0), vec4<f32>(127.0)))) & vec4<u32>(255u);
}
fn to_word(bytes: vec4<u32>) -> u32 { return bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u); }
fn largest_of(v: vec4<f32>) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
