"""The names of precisions and engines that an export chooses among and a bundle's manifest states."""

from __future__ import annotations

from typing import Literal

DecoderPrecision = Literal["int4", "int8", "fp16", "fp32"]
DecoderEngine = Literal["native", "onnx"]
OnnxArithmetic = Literal["int8", "fp32", "fp16"]
"""How an ONNX decoder multiplies: with activations rounded to int8, or with floats of 32 or 16 bits."""
VisionPrecision = Literal["fp16", "fp32", "int8", "bf16"]
"""fp16 and fp32 are ONNX graphs, int8 and bf16 towers of the native core."""
ProjectorPrecision = Literal["fp16", "fp32", "int8"]
"""Precision of a projector that is a graph, whatever the towers are: int8 has a scale for each channel."""
