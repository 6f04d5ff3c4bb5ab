// provides: X_GROUPS, row_words, row_facts, add_squares, x_words, x_scale
// needs: norm_sum (squares)
// INT8 activations made in front of a product: every workgroup weighs a row of float activations with the norm and
// quantizes it to its own memory. That is work done again by each of them, but a few hundred workgroups read a row from
// the cache in less time than a dispatch of its own takes to start (2.3 us, H200). The scales lack the norm's factor,
// which is one number a row: it multiplies the sums.
const X_GROUPS: u32 = (COLUMNS + 31u) / 32u;
var<workgroup> row_words: array<vec4<u32>, X_GROUPS * 2u>;
var<workgroup> row_facts: array<vec2<f32>, X_GROUPS>;  // scale, sum of the squares of x

fn add_squares(group: u32) { squares += row_facts[group].y; }
fn x_words(token: u32, i: u32) -> vec4<u32> { return row_words[i]; }
fn x_scale(token: u32, group: u32) -> f32 { return row_facts[group].x; }
