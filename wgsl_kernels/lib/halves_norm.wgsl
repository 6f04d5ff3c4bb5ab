// f16 activations are weighed with the norm as they are read, and rounded to f16 again; nothing is brought before.
fn bring(token: u32, thread: u32) {}
fn weigh8(words: vec4<u32>, column: u32) -> Octet {
  let o = octet_of(words);
  let a = vec4<f32>(o.a);
  let b = vec4<f32>(o.b);
  squares += dot(a, a) + dot(b, b);
  let i = min(column, COLUMNS - 8u) / 4u;
  return Octet(vec4<f16>(a * norm[i]), vec4<f16>(b * norm[i + 1u]));
}
