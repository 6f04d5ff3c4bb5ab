"""Layouts of other projects' quantized models, both ways: read into this project's formats, and written from them."""

#: What a model is written as (`export`).
TARGETS = ("hf", "gguf", "gptq", "compressed-tensors", "onnx")
