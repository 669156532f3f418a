"""What one answer cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

StopReason = Literal["token", "length", "context", "cancelled", "stopped"]


@dataclass
class Statistics:
    """Counts and times of one turn; filled while it runs. Times are seconds."""

    pictures: int = 0
    tiles: int = 0
    """SigLIP tiles, global views and those of pictures that were encoded before included."""
    vision_cache_hits: int = 0
    """Pictures that had been encoded before, for this question or an earlier one of any session."""
    vision_cache_bytes: int = 0
    """Embeddings that the model keeps after the turn's."""
    siglip_tokens: int = 0
    eagle_tokens: int = 0
    text_tokens: int = 0
    """Tokens of the prompt, control tokens included."""
    new_tokens: int = 0
    """Tokens of the answer without the closing one."""
    reused_tokens: int = 0
    """Positions of the prompt whose keys and values an earlier question had left, of any session."""
    decode_steps: int = 0
    """Steps of the decoder; fewer than new tokens where drafts were right."""
    drafted_tokens: int = 0
    """Guessed from earlier text and checked in these steps."""
    accepted_tokens: int = 0
    """Drafted tokens that were right and needed no step of their own."""
    vision_load_seconds: float = 0.0
    """Opening the vision engines."""
    preprocess_seconds: float = 0.0
    """Reading pictures, tiling and patching them."""
    siglip_seconds: float = 0.0
    projector_seconds: float = 0.0
    eagle_seconds: float = 0.0
    dropped_mass: float = 0.0
    """Probability that a native projector left out of a token of the visual vocabulary at most."""
    vocabulary_share: float | None = None
    """Share of the visual vocabulary that was multiplied; None when no native projector ran, or one without such."""
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    """Inside the core; the time in which the caller looks at the pieces is not counted."""
    first_token_seconds: float | None = None
    """Seconds from the question to the first token; None when there was none."""
    total_seconds: float = 0.0
    context_used: int = 0
    """Positions in the KV cache after the turn."""
    context_length: int = 0
    kv_bytes: int = 0
    prefix_cache_bytes: int = 0
    """KV pages that the model keeps for later questions and no session holds."""
    peak_memory_bytes: int | None = None
    """Largest resident memory of the process so far, mapped files included; None where the system does not tell."""
    seed: int = 0
    providers: dict[str, list[str]] = field(default_factory=dict)
    """ONNX Runtime's providers by vision engine, as it reports them."""
    stop: StopReason | None = None
    """Why the answer ended: a stop token, max_new_tokens, a full context, cancelled, or the caller stopped iterating.
    None: it has not ended, or it failed."""

    def note(self, found: Any, load_seconds: float) -> None:
        """Takes what the core says of the question so far.

        Args:
            found: A v2e_statistics; its new tokens are those that were computed, and not all of these need be read.
            load_seconds: What reading the pictures took before the core was asked.
        """
        for name in _OF_CORE:
            setattr(self, name, getattr(found, name))
        self.preprocess_seconds += load_seconds
        self.first_token_seconds = found.first_token_seconds + load_seconds if found.first_token_seconds else None
        self.vocabulary_share = found.vocabulary_share or None
        self.peak_memory_bytes = found.peak_memory_bytes or None

    @property
    def prompt_tokens(self) -> int:
        """Positions that the prompt took: text and pictures."""
        return self.text_tokens + self.siglip_tokens + self.eagle_tokens

    @property
    def prefill_tokens_per_second(self) -> float:
        """Speed of the prefill, reused positions apart; 0 when there was none."""
        return (self.prompt_tokens - self.reused_tokens) / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Speed of the decode; 0 when there was none."""
        return self.new_tokens / self.decode_seconds if self.decode_seconds else 0.0

    @property
    def tokens_per_step(self) -> float:
        """New tokens for each step of the decoder: 1 without drafts; 0 when there was none."""
        return self.new_tokens / self.decode_steps if self.decode_steps else 0.0


_OF_CORE = (
    "pictures",
    "tiles",
    "vision_cache_hits",
    "vision_cache_bytes",
    "siglip_tokens",
    "eagle_tokens",
    "text_tokens",
    "reused_tokens",
    "decode_steps",
    "drafted_tokens",
    "accepted_tokens",
    "vision_load_seconds",
    "preprocess_seconds",
    "siglip_seconds",
    "projector_seconds",
    "eagle_seconds",
    "dropped_mass",
    "prefill_seconds",
    "decode_seconds",
    "prefix_cache_bytes",
)
"""The fields that v2e_statistics has by the same names."""
