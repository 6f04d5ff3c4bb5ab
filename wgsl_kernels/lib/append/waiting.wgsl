// provides: waiting, append
// needs: append_head (QUADS)
// A head waits in workgroup memory until all of it is there, since all of it has one scale in an INT8 cache.
var<workgroup> waiting: array<vec4<f32>, QUADS>;
fn append(token: u32, part: u32, head: u32, dim: u32, apart: u32, pair: vec2<f32>) {
  waiting[dim / 4u][dim % 4u] = pair.x;
  waiting[(dim + apart) / 4u][(dim + apart) % 4u] = pair.y;
}
