"""Adapters of low rank (LoRA): each sequence of a step may have another one of those that are loaded."""
