"""TensorRT for the vision graphs: engines are built on the user's machine, kept and run (docs/tensorrt.md)."""
