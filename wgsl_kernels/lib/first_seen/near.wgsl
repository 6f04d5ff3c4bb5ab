// provides: first_seen
// The first position that a token at position `own` sees: of the WINDOW up to its own those in its chunk of CHUNK
// positions; 0 is no such bound.
fn first_seen(own: u32) -> u32 {
  let window_start = select(0u, own + 1u - min(own + 1u, WINDOW), WINDOW > 0u);
  return max(window_start, own / max(CHUNK, 1u) * CHUNK);
}
