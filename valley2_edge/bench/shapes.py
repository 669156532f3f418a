"""Decoder sizes by name, for measurements without a checkpoint."""

from __future__ import annotations

from valley2_edge.config import DecoderConfig
from valley2_edge.errors import InputError

SHAPES = {
    "qwen2.5-7b": DecoderConfig(),
    # Seconds for a whole run; its figures mean nothing.
    "tiny": DecoderConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=1024,
        max_position_embeddings=4096,
    ),
}
"""The decoder of the released Valley2, and one to try the measurement itself with."""


def shape_config(name: str, layers: int | None = None) -> DecoderConfig:
    """The sizes of a named shape.

    Args:
        name: A key of `SHAPES`.
        layers: Instead of all of its layers; None: all.

    Raises:
        InputError: There is no shape of that name, or no layers.
    """
    if name not in SHAPES:
        raise InputError(f"there is no shape {name!r}; there are {', '.join(SHAPES)}")
    if layers is None:
        return SHAPES[name]
    if layers < 1:
        raise InputError(f"a decoder has at least 1 layer, not {layers}")
    return SHAPES[name].model_copy(update={"num_hidden_layers": layers})
