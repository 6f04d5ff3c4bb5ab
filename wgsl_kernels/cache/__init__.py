"""The key/value cache: what goes into it, in floats and in INT8."""
