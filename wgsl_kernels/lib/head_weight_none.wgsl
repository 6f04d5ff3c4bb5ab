fn weight_at(i: u32) -> f32 { return 1.0; }
