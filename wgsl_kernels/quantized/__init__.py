"""From stored integers to floats, and back."""
