"""TensorRT for the vision graphs: builds engines on the user's machine, keeps them, and runs them (docs/tensorrt.md)."""
