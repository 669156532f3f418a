"""Writes the decoder as ONNX graphs that ONNX Runtime runs."""
