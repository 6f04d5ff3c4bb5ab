"""Elementwise operations and gated units."""
