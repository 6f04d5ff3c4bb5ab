// provides: Activations, Columns, activations_at, prepared
// needs: x (x4), weigh (weigh), caller (EVEN_PLACES, ODD_PLACES, PIECE)
// As float_32.wgsl, 16 columns.
alias Activations = array<vec4<f32>, 4>;
struct Columns { v: Activations, sum: f32 }

fn activations_at(token: u32, piece: u32) -> Activations {
  let k = piece * PIECE;
  return Activations(x4(token, k), x4(token, k + 4u), x4(token, k + 8u), x4(token, k + 12u));
}
fn prepared(x: Activations, piece: u32) -> Columns {
  let k = piece * PIECE;
  let v = Activations(weigh(x[0], k), weigh(x[1], k + 4u), weigh(x[2], k + 8u), weigh(x[3], k + 12u));
  return Columns(Activations(v[0] * EVEN_PLACES, v[1] * ODD_PLACES, v[2] * EVEN_PLACES, v[3] * ODD_PLACES),
                 dot(v[0] + v[1] + v[2] + v[3], vec4<f32>(1.0)));
}
