// provides: Row, Rows
// What a step knows of each of its rows: `position` in its sequence, whether it is `real` or padding (0), which
// `sequence` of the cache it belongs to, and how many tokens were generated before it (`steps`). `real` is 1, or 2 + n
// where the sequence has the n-th of the adapters. A uniform, since barriers in loops that it bounds require one.
struct Row { position: u32, real: u32, sequence: u32, steps: u32 }
alias Rows = array<Row, TOKENS>;
