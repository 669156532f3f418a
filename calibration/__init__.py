"""Makes calibration sets and the inputs that a decoder's layers get from them, at build time."""
