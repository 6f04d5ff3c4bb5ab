// provides: x_words, x_fact, add_square
// needs: norm_sum (squares)
// INT8 activations as `linear_weighed` left them for the norm behind it: weighed, but without the norm's factor, which
// multiplies the sums. Of each block its scale and the sum of the squares of what was weighed.
@group(0) @binding(0) var<storage, read> words: array<vec4<u32>>;
@group(0) @binding(7) var<storage, read> facts: array<vec2<f32>>;
fn add_square(square: f32) { squares += square; }
fn x_words(token: u32, i: u32) -> vec4<u32> { return words[token * X_GROUPS * 2u + i]; }
fn x_fact(token: u32, group: u32) -> vec2<f32> { return facts[token * X_GROUPS + group]; }
