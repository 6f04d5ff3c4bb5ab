// provides: Seen, seen_by, position_at, slot_at, first_seen, end_of
// What a token sees: all positions up to its own, in a cache that has a slot for each. They are counted from 0; slots
// are those of a head of the cache.
struct Seen { count: u32 }
fn end_of(position: u32) -> u32 { return min(position + 1u, CAPACITY); }  // behind the last one that a token sees
fn first_seen(position: u32) -> u32 { return 0u; }
fn seen_by(position: u32) -> Seen { return Seen(end_of(position)); }
fn position_at(seen: Seen, n: u32) -> u32 { return n; }
fn slot_at(seen: Seen, n: u32) -> u32 { return n; }
