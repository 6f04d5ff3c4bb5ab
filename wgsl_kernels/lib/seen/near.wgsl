// provides: Seen, seen_by, position_at, slot_at, first_seen, end_of
// What a token sees: of the WINDOW positions up to its own those in its chunk of CHUNK positions (0 is no such bound), and
// the first SINKS of its sequence. They are counted from 0, the sinks first, then all from `skipped` + SINKS on. The cache
// is a ring behind the sinks (lib/slot/ring), with slots for all that a token sees; `turn` is where the first of them lies.
struct Seen { count: u32, skipped: u32, turn: u32 }
const AROUND: u32 = CAPACITY - SINKS;
fn end_of(position: u32) -> u32 { return position + 1u; }  // behind the last one that a token sees
fn first_seen(position: u32) -> u32 {  // of those that are no sinks
  let window_start = select(0u, position + 1u - min(position + 1u, WINDOW), WINDOW > 0u);
  return max(max(window_start, position / max(CHUNK, 1u) * CHUNK), SINKS);
}
fn seen_by(position: u32) -> Seen {
  let skipped = first_seen(position) - SINKS;
  return Seen(position + 1u - skipped, skipped, skipped % AROUND);
}
fn position_at(seen: Seen, n: u32) -> u32 { return select(n + seen.skipped, n, n < SINKS); }
fn slot_at(seen: Seen, n: u32) -> u32 {
  let round = n - SINKS + seen.turn;  // a division costs more than what it is for
  return select(SINKS + select(round, round - AROUND, round >= AROUND), n, n < SINKS);
}
