"""What rounding costs: a bundle's answers and probabilities beside those of the checkpoint."""
