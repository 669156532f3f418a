"""Makes checkpoints with random weights and the released names and layout, for tests and measurements."""
