"""Compares what a bundle computes with its self-test or with recorded outputs of the reference."""
