"""How the matrices of the decoder are rounded: calibration, sensitivity, precision, rounded layers."""
