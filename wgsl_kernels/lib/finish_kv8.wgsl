// A head waits in workgroup memory until all of it is there, since all of it has one scale.
var<workgroup> waiting: array<vec4<f32>, QUADS>;
fn append(token: u32, part: u32, head: u32, dim: u32, apart: u32, pair: vec2<f32>) {
  waiting[dim / 4u][dim % 4u] = pair.x;
  waiting[(dim + apart) / 4u][(dim + apart) % 4u] = pair.y;
}
fn new_quad(part: u32, token: u32, head: u32, quad: u32) -> vec4<f32> { return waiting[quad]; }
fn finish(part: u32, token: u32, head: u32, thread: u32) {
  workgroupBarrier();
  append_head(part, token, head, thread);
}
