// provides: QUERIES, query_for
// needs: caller (q, Query)
// A token meets all that it sees with one query.
const QUERIES: u32 = 1u;
fn query_for(sink: bool, at: u32) -> Query { return q[at]; }
