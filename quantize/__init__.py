"""Rounds matrices to few bits and packs them for the native kernels, at build time."""
