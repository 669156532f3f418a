"""Reads, writes and converts GPTQ checkpoints in the layout of transformers."""
