"""Writes a bundle's directory and files so that they appear whole or not at all."""
