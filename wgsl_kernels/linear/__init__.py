"""Products with weight matrices, alone and fused with what stands around them."""
