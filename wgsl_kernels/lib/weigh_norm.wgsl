// Float activations are weighed with the norm as they are read; nothing is brought before.
fn bring(token: u32, thread: u32) {}
fn weigh(v: vec4<f32>, column: u32) -> vec4<f32> {
  squares += dot(v, v);
  return v * norm[min(column, COLUMNS - 4u) / 4u];
}
