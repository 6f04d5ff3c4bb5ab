"""Layouts of other projects' quantized models, both ways: read into this project's formats, and written from them."""
