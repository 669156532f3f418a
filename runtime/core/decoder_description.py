"""What a decoder is, and what its sessions have left for others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DecoderDescription:
    """What a decoder is and what it costs; the fields of v2e_decoder_description."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary_size: int
    max_context: int
    """Positions that the model was trained for."""
    threads: int
    isa: str
    """Instruction set of the native core, or the name of the backend."""
    weight_bytes: int
    """Bytes of weights that are read for one decoded token."""
    mapped_bytes: int
    """Bytes of the files that are mapped from disk."""
    device: str = "cpu"
    """"cuda" when at least one layer, or the backend, is on an NVIDIA GPU, else "cpu"."""
    gpu_layers: int = 0
    """Number of layers on the GPU."""
    gpu_bytes: int = 0
    """Bytes of weights on the GPU."""
    device_name: str = ""
    """Name of the GPU or of the backend; empty without one."""
    device_reason: str = ""
    """Why "auto" chose the CPU, as part of a sentence; else empty."""


@dataclass(frozen=True)
class PrefixCacheState:
    """What sessions have left for others; the fields of v2e_prefix_cache."""

    budget_bytes: int
    kept_bytes: int
    """Bytes of pages that no session holds."""
    pages: int
    """Number of pages that can be found, those that sessions hold included."""
