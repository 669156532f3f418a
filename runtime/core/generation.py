"""How a session generates tokens, and what that costs."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from valley2_edge.option_checks import LARGEST_UINT64
from valley2_edge.options import SamplingOptions
from valley2_edge.runtime.core.binding import (
    SPECULATION_NUMBERS,
    array_pointer,
    new_struct,
    number_of,
    struct_values,
    token_array,
    unsigned,
)


class StopReason(enum.Enum):
    """Why `DecoderSession.generate` ended."""

    TOKEN = 1
    """The model chose a stop token, which is neither reported nor in the session."""
    LENGTH = 2
    """max_new_tokens were made."""
    CONTEXT = 3
    """The context is full."""


@dataclasses.dataclass(frozen=True)
class GenerateOptions(SamplingOptions):
    """How a call of the core chooses the next tokens; the fields are those of v2e_generate_options."""

    max_new_tokens: int = 0
    """Most tokens of this call; 0 goes on until a stop token or the end of the context."""
    stop_tokens: tuple[int, ...] = ()
    """Token ids that end the answer."""
    tokens_to_follow: int = 0
    """Most tokens that later calls will ask for; drafts may reach so far beyond max_new_tokens."""

    def __post_init__(self) -> None:
        """Checks nothing: a call for each token is frequent, and the core itself refuses what is out of range."""

    def struct(self) -> Any:
        """The options as the header has them.

        Raises:
            InputError: one does not fit into its type, or speculation is unknown.
        """
        stops = token_array(self.stop_tokens)
        return new_struct(
            "v2e_generate_options",
            max_new_tokens=unsigned("max_new_tokens", self.max_new_tokens),
            temperature=self.temperature,
            top_k=unsigned("top_k", self.top_k),
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=unsigned("seed", self.seed or 0, LARGEST_UINT64),
            stop_tokens=array_pointer(stops),
            stop_token_count=len(stops),
            speculation=number_of("speculation", self.speculation, SPECULATION_NUMBERS),
            tokens_to_follow=unsigned("tokens_to_follow", self.tokens_to_follow),
        )


@dataclasses.dataclass(frozen=True)
class GenerationCounters:
    """What generating and prefilling have cost; the fields of v2e_decoder_session_counters."""

    tokens: int
    """Tokens that were chosen and decoded."""
    steps: int
    """Steps of the decoder; without drafts there is one for each token."""
    drafted_tokens: int
    """Drafted tokens that these steps checked."""
    accepted_tokens: int
    """Drafted tokens that were right and needed no step of their own."""
    prefilled_positions: int
    reused_positions: int
    """Prefilled positions that an earlier call of this or another session had computed."""

    @classmethod
    def of(cls, struct: Any) -> GenerationCounters:
        """The counters that the core has filled in."""
        return cls(**struct_values(struct, [field.name for field in dataclasses.fields(cls)]))
