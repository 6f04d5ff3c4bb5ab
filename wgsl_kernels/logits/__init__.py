"""What is read off rows of logits."""
