// provides: head_factor
// needs: reduce (workgroup_sum), caller (x)
// What a head of x is multiplied by to have a mean square of 1; `x` is that of the kernel. Heads are short: a plain sum.
fn head_factor(start: u32, thread: u32) -> f32 {
  var squares = 0.0;
  for (var turn = 0u; turn < (HEAD_DIM + WORKGROUP - 1u) / WORKGROUP; turn++) {
    let i = turn * WORKGROUP + thread;
    if (i >= HEAD_DIM) { break; }
    let v = f32(x[start + i]);
    squares += v * v;
  }
  return 1.0 / sqrt(workgroup_sum(squares, thread) / f32(HEAD_DIM) + EPS);
}
