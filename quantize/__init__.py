"""Build time: how a matrix is rounded to few bits and laid out for the native kernels."""
