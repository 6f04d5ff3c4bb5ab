// provides: finish
// needs: append_head (append_head)
// A head that is complete in workgroup memory is quantized into the INT8 cache.
fn finish(part: u32, token: u32, head: u32, thread: u32) {
  workgroupBarrier();
  append_head(part, token, head, thread);
}
