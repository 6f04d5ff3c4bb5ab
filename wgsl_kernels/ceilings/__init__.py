"""What a device gives at most: kernels that only read, copy or multiply."""
