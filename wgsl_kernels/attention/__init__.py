"""Attention, and what is done to queries and keys in front of it."""
