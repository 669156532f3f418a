"""The decoder and the vision graphs in ONNX Runtime."""
