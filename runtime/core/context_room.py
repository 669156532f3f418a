"""The positions that pictures take in the context."""

from __future__ import annotations

from collections import Counter

from valley2_edge.config import ModelConfig
from valley2_edge.policy import Policy
from valley2_edge.runtime.core.picture_policy import geometry_options
from valley2_edge.runtime.core.pixels import plan_picture

Size = tuple[int, int]
"""Width and height, pixels."""


def picture_tokens(sizes: Counter[Size], policy: Policy, model: ModelConfig, *, video: bool) -> int:
    """Positions that pictures take in the context.

    Args:
        sizes: How many pictures there are of each size.
        policy: How they become tokens.
        model: The architecture.
        video: They are frames of a video.

    Raises:
        InputError: A picture is too thin, or the caps leave no token.
    """
    options = geometry_options(policy, model, sizes.total(), video=video)
    total = 0
    for (width, height), count in sizes.items():
        plan = plan_picture(width, height, options)
        total += count * (plan.siglip_tokens + plan.eagle_tokens)
    return total
