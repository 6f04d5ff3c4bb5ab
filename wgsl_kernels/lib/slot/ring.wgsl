// provides: has_slot, slot_of
// Where in the cache a position lies: the first SINKS stay, the others go round behind them.
fn has_slot(position: u32) -> bool { return true; }
fn slot_of(position: u32) -> u32 {
  return select(SINKS + (position - SINKS) % (CAPACITY - SINKS), position, position < SINKS);
}
