// provides: new_quad
// needs: append/waiting (waiting)
// Keys or values to append, a head that waits in workgroup memory.
fn new_quad(part: u32, token: u32, head: u32, quad: u32) -> vec4<f32> { return waiting[quad]; }
