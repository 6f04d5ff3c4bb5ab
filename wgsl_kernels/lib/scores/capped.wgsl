// provides: capped, capped4
// needs: tanh (tanh_of)
// Scores enter the softmax as SOFTCAP * tanh(score / SOFTCAP).
fn capped(score: f32) -> f32 { return SOFTCAP * tanh_of(score / SOFTCAP); }
fn capped4(scores: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(capped(scores.x), capped(scores.y), capped(scores.z), capped(scores.w));
}
