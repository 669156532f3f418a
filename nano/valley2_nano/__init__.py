"""Training of valley2-nano: a small Valley2 in torch, its data, its optimiser and its checkpoint files."""
