"""The self-test inside a bundle: what it asks and what has to come out, as export writes it and run time reads it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

SELFTEST_FILE = "selftest/selftest.json"
SELFTEST_PICTURE = "selftest/picture.png"
SELFTEST_REFERENCE = "selftest/reference.safetensors"

SelfTestStage = Literal["siglip_features", "projector_tokens", "eagle_tokens", "input_embeddings", "logits"]


class SelfTest(BaseModel):
    """`selftest.json`: one question about one picture, asked with the options named here and defaults otherwise.

    `reference.safetensors` holds, all float32, with n = ceil(rows / stride):

    - siglip_features (n, C), projector_tokens (n, hidden): every `tile_stride`-th row of (tiles * patches, C) and of
      (tiles * tokens_per_side^2, hidden), computed by torch from the checkpoint;
    - eagle_tokens (n, hidden): every `eagle_stride`-th row of (eagle_tokens, hidden), by torch from the checkpoint;
      absent without an Eagle branch;
    - embedding_sums (L,), embedding_norms (L,): sum and norm of each row of the prompt's input embeddings, with the
      bundle's own vision graphs;
    - logits (logit_rows, vocab): of the last positions, by torch in float32 from the bundle's own dequantised decoder
      and those input embeddings.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal["valley2-selftest"] = "valley2-selftest"
    format_version: Literal[1] = 1
    question: str
    policy: Literal["hub", "repo"]
    strict: bool
    eagle_preset: Literal["fast", "balanced", "document", "full"]
    prompt: str
    """The rendered prompt, `<image>` where the picture stands."""
    input_ids: list[int]
    """Its tokens, -200 where the picture stands."""
    tile_stride: int
    eagle_stride: int
    siglip_tokens: int
    """Of the picture, as the decoder sees them."""
    eagle_tokens: int
    prefill_length: int
    """L: positions of the whole prompt."""
    logit_rows: int
    activations: Literal["int8", "int16"]
    """How the decoder has to run for the tolerance on logits to hold; kv_precision fp32."""
    tolerances: dict[SelfTestStage, float]
    """Norm of the difference over norm of the reference; for input_embeddings of every row on its own."""
