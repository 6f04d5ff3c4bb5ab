// provides: with_residual, residual_at, added_to
// Nothing is added to a product.
fn residual_at(index: u32) -> f32 { return 0.0; }
fn added_to(before: f32, v: f32) -> f32 { return v; }
fn with_residual(v: f32, index: u32) -> f32 { return v; }
