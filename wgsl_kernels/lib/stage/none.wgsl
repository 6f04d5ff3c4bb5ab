// provides: bring
// Activations are read where they are used; nothing goes into workgroup memory before.
fn bring(token: u32, thread: u32) {}
