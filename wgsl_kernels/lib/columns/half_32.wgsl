// provides: Octets, Arranged, Activations, Columns, activations_at, prepared
// needs: x8 (Octet, x8, octet_of, sum_octet), zeros (ZEROS), caller (arranged, PIECE)
// 32 columns of f16 activations, in the order in which numbers come out of a word (`arranged`), and their sum where
// zero-points ask for it.
alias Activations = array<vec4<u32>, 4>;
alias Octets = array<Octet, 4>;
alias Arranged = array<vec4<f16>, 8>;
struct Columns { v: Arranged, sum: f32 }

fn activations_at(token: u32, piece: u32) -> Activations {
  let k = piece * PIECE;
  return Activations(x8(token, k), x8(token, k + 8u), x8(token, k + 16u), x8(token, k + 24u));
}
fn prepared(x: Activations, piece: u32) -> Columns {
  let o = Octets(octet_of(x[0]), octet_of(x[1]), octet_of(x[2]), octet_of(x[3]));
  var sum = 0.0;
  if (ZEROS) { sum = sum_octet(o[0]) + sum_octet(o[1]) + sum_octet(o[2]) + sum_octet(o[3]); }
  return Columns(arranged(o), sum);
}
