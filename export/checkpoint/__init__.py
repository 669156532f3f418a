"""Reading a Valley2 checkpoint: its configuration, its tensors, and where it comes from."""
