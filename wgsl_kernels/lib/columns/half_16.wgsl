// provides: Octets, Arranged, Activations, Columns, activations_at, prepared
// needs: x8 (Octet, x8, octet_of, sum_octet), zeros (ZEROS), caller (arranged, PIECE)
// As half_32.wgsl, 16 columns.
alias Activations = array<vec4<u32>, 2>;
alias Octets = array<Octet, 2>;
alias Arranged = array<vec4<f16>, 4>;
struct Columns { v: Arranged, sum: f32 }

fn activations_at(token: u32, piece: u32) -> Activations {
  return Activations(x8(token, piece * PIECE), x8(token, piece * PIECE + 8u));
}
fn prepared(x: Activations, piece: u32) -> Columns {
  let o = Octets(octet_of(x[0]), octet_of(x[1]));
  var sum = 0.0;
  if (ZEROS) { sum = sum_octet(o[0]) + sum_octet(o[1]); }
  return Columns(arranged(o), sum);
}
