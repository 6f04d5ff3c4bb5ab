// provides: has_slot, slot_of
// Where in the cache a position lies: a slot a position, as many as there are.
fn has_slot(position: u32) -> bool { return position < CAPACITY; }
fn slot_of(position: u32) -> u32 { return position; }
