// provides: hand_on
// needs: store_blocks (store_blocks), caller (weighed)
// The weighed slice goes to memory in INT8, for the products behind it.
@group(0) @binding(5) var<storage, read_write> words: array<vec4<u32>>;
@group(0) @binding(11) var<storage, read_write> scales: array<f32>;
const MADE: u32 = 256u;
const BLOCKS: u32 = (COLUMNS + 31u) / 32u;
var<private> first_block: u32;
var<private> row: u32;

fn made_quad(i: u32) -> vec4<f32> { return weighed[i]; }
fn store_words(i: u32, v: vec4<u32>) {
  let at = first_block * 2u + i;
  if (at < BLOCKS * 2u) { words[row * BLOCKS * 2u + at] = v; }
}
fn store_scale(block: u32, scale: f32) {
  let at = first_block + block;
  if (at < BLOCKS) { scales[row * BLOCKS + at] = scale; }
}
fn hand_on(token: u32, slice: u32, thread: u32) {
  row = token;
  first_block = slice * 8u;
  store_blocks(thread, STRIDE);
}
