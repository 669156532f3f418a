"""Build time: calibration sets, and what a decoder's layers see of them."""
