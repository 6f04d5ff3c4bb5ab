// provides: row_factor
// needs: low_sums/sliced (low_slices, LOW_WIDTH)
// The norm's factor, from squares of the row that lie behind A x in each slice.
fn row_factor(team: u32) -> f32 { return 1.0 / sqrt(low_slices[LOW_WIDTH - 1u].x / f32(COLUMNS) + EPS); }
