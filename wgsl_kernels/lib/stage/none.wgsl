// provides: stage
// Activations are read where they are used; nothing goes into workgroup memory before.
fn stage(token: u32, thread: u32) {}
