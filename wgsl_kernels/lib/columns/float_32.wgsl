// provides: Activations, Columns, activations_at, prepared
// needs: x (x4), weigh (weigh), caller (EVEN_PLACES, ODD_PLACES, PIECE)
// 32 columns of float activations: weighed, multiplied by the places of a word's numbers, and their sum.
alias Activations = array<vec4<f32>, 8>;
struct Columns { v: Activations, sum: f32 }

fn activations_at(token: u32, piece: u32) -> Activations {
  let k = piece * PIECE;
  return Activations(x4(token, k), x4(token, k + 4u), x4(token, k + 8u), x4(token, k + 12u),
                     x4(token, k + 16u), x4(token, k + 20u), x4(token, k + 24u), x4(token, k + 28u));
}
fn prepared(x: Activations, piece: u32) -> Columns {
  let k = piece * PIECE;
  let v = Activations(weigh(x[0], k), weigh(x[1], k + 4u), weigh(x[2], k + 8u), weigh(x[3], k + 12u),
                      weigh(x[4], k + 16u), weigh(x[5], k + 20u), weigh(x[6], k + 24u), weigh(x[7], k + 28u));
  return Columns(Activations(v[0] * EVEN_PLACES, v[1] * ODD_PLACES, v[2] * EVEN_PLACES, v[3] * ODD_PLACES,
                             v[4] * EVEN_PLACES, v[5] * ODD_PLACES, v[6] * EVEN_PLACES, v[7] * ODD_PLACES),
                 dot(v[0] + v[1] + v[2] + v[3] + v[4] + v[5] + v[6] + v[7], vec4<f32>(1.0)));
}
