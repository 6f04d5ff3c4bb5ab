// provides: Octet
// Eight consecutive numbers of a weight row, as stored (quantized: before scale and zero-point).
struct Octet { lo: vec4<f32>, hi: vec4<f32> }
