"""Build time: a Valley2 checkpoint becomes the files of a bundle."""

from valley2_edge.telemetry import switch_off_telemetry

switch_off_telemetry()
