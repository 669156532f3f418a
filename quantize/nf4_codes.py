"""The sixteen codes of 4-bit NormalFloat (QLoRA, arXiv 2305.14314, section 3 and appendix E)."""

from __future__ import annotations

import torch

NF4_CODES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""Quantiles of the normal distribution in units of a group's largest magnitude, with bitsandbytes' float32 values."""

NF4_LIMIT = 127
"""What a group's largest magnitude becomes in the int8 table."""

NF4_LEVELS = tuple(round(code * NF4_LIMIT) for code in NF4_CODES)
"""The codes as int8, so that a kernel looks four bits up and multiplies bytes."""

NF4_ZERO = NF4_LEVELS.index(0)
"""The index of the code that is zero."""


def nf4_levels(device: torch.device) -> torch.Tensor:
    """The whole number that each code stands for, (16,) float32.

    Args:
        device: The device of the result.
    """
    return torch.tensor(NF4_LEVELS, dtype=torch.float32, device=device)
