"""GPTQ checkpoints in the format of transformers: read, written and converted."""
