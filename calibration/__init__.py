"""Calibration sets and activation capture, for rounding methods that need them; the present one, rtn, does not."""
