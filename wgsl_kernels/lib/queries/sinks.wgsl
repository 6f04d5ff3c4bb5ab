// provides: QUERIES, query_for
// needs: caller (q, Query)
// A token meets the first SINKS positions with a query of their own, which is turned as if they stood in front of its
// window.
@group(0) @binding(6) var<storage, read> q_sinks: array<Query>;
const QUERIES: u32 = 2u;
fn query_for(sink: bool, at: u32) -> Query {
  if (sink) { return q_sinks[at]; }
  return q[at];
}
