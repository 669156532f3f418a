"""The decoder as ONNX graphs that ONNX Runtime runs."""
