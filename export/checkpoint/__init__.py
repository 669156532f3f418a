"""Finds and reads a Valley2 checkpoint: its configuration and its tensors."""
