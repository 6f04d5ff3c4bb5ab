"""Mixtures of experts: which experts a token goes to, and products with theirs alone."""
