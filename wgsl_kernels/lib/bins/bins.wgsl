// provides: RUN, in_bin, of_bins
// Sums of many numbers >= 0 in f32: by size in four sums, to each of which its own numbers are added in short runs (`RUN` of a
// thread). In one sum what is smaller than half a unit of it is lost, which over a vocabulary makes a logarithm too small
// by 1e-5, always to one side. Nothing here rests on the order in which a compiler adds.
const RUN: u32 = 64u;
const BINS = vec4<f32>(0x1p-7f, 0x1p-14f, 0x1p-21f, 0.0);

fn in_bin(value: f32) -> vec4<f32> {
  let above = vec4<f32>(value) >= BINS;
  return select(vec4<f32>(), vec4<f32>(value), above & vec4<bool>(true, !above.x, !above.y, !above.z));
}
fn of_bins(sums: vec4<f32>) -> f32 { return ((sums.w + sums.z) + sums.y) + sums.x; }
