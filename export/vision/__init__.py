"""Makes the vision half of a bundle: SigLIP, the projector and Eagle, as ONNX graphs or as native files."""
