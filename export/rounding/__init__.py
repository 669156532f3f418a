"""Rounds the decoder on a calibration set, layer by layer, and chooses the format of each matrix."""
