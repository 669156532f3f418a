"""Measures what rounding costs: the bundle's answers and probabilities compared with the checkpoint's."""
