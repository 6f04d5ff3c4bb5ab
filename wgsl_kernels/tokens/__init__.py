"""A step's tokens: their embeddings, the last one's row, and moving on by one."""
