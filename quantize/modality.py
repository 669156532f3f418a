"""Weighs picture tokens against text tokens when a Hessian is accumulated.

A calibration sample of a vision-language model has many more picture tokens than text tokens, and the loss depends more
on the text tokens: MBQ (arXiv 2412.19509) finds gradients more than ten times larger there, and VLMQ (arXiv 2508.03351)
finds the picture tokens redundant. Both weigh the tokens of the reconstruction error by gradients: one number for each
modality (MBQ), or one for each token (VLMQ, which puts them into the Hessian). Here it is one number for a picture
token, the text token being 1; no gradient is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from valley2_edge.errors import InputError

PictureWeight = float | Literal["balanced"] | None
"""Weight of a picture token, where a text token weighs 1. None means 1. "balanced" makes all picture tokens of the
calibration set weigh as much as all its text tokens."""


@dataclass(frozen=True)
class TokenCounts:
    """Numbers of tokens in the whole calibration set, which are known before the model runs."""

    picture: int
    text: int


def picture_token_weight(choice: PictureWeight, counts: TokenCounts) -> float:
    """The weight of a picture token as a number.

    Args:
        choice: A number from 0 up, None or "balanced".
        counts: The tokens of the calibration set, which only "balanced" uses; when one kind is missing the weight is 1.

    Raises:
        InputError: The choice is something else.
    """
    if choice is None:
        return 1.0
    if choice == "balanced":
        return counts.text / counts.picture if counts.picture and counts.text else 1.0
    if isinstance(choice, str) or not math.isfinite(choice) or choice < 0:
        raise InputError(f"the weight of a picture token is a number from 0 up, or 'balanced'; {choice!r} is neither")
    return float(choice)


def token_weights(is_picture: torch.Tensor, picture_weight: float) -> torch.Tensor:
    """The weights of a batch of tokens, for Hessian.add.

    Args:
        is_picture: (tokens,) bool.
        picture_weight: What `picture_token_weight` returned.

    Returns:
        (tokens,) float32, with 1 for text.
    """
    return torch.where(is_picture, picture_weight, 1.0).to(torch.float32)
