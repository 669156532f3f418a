"""How a session generates tokens, and what that costs."""

from __future__ import annotations

import ctypes
import dataclasses
import enum

from valley2_edge.runtime.core.library import (
    COUNTER_FIELDS,
    SPECULATION_NUMBERS,
    GenerateOptionsStruct,
    SessionCountersStruct,
)
from valley2_edge.runtime.core.native_call import LARGEST_UINT64, number_of, token_array, unsigned


class StopReason(enum.Enum):
    """Why `DecoderSession.generate` ended."""

    TOKEN = 1
    """The model chose a stop token, which is neither reported nor in the session."""
    LENGTH = 2
    """max_new_tokens were made."""
    CONTEXT = 3
    """The context is full."""


@dataclasses.dataclass(frozen=True)
class GenerateOptions:
    """How the next tokens are chosen; the fields of v2e_generate_options."""

    max_new_tokens: int = 0
    """0: until a stop token or the end of the context."""
    temperature: float = 0.0
    """0: greedy; at most 1e6."""
    top_k: int = 0
    """0: off."""
    top_p: float = 1.0
    """0 or 1: off."""
    min_p: float = 0.0
    """0: off."""
    repetition_penalty: float = 1.0
    """1e-6 to 1e6; 0 or 1: off; over the session's token ids, prompt and answers."""
    seed: int = 0
    stop_tokens: tuple[int, ...] = ()
    speculation: str = "auto"
    """Drafts by prompt lookup, a key of `SPECULATION_NUMBERS`: "auto" where they pay, "off", or "always" for tests and
    measurements. They change the time of an answer and nothing else."""
    tokens_to_follow: int = 0
    """That later calls will ask for at most: drafts may reach so far beyond max_new_tokens."""

    def struct(self) -> GenerateOptionsStruct:
        """The options as the header has them; the struct keeps the stop tokens that it points to.

        Raises:
            InputError: one does not fit into its type, or speculation is unknown.
        """
        stops = token_array(self.stop_tokens)
        return GenerateOptionsStruct(
            max_new_tokens=unsigned("max_new_tokens", self.max_new_tokens),
            temperature=self.temperature,
            top_k=unsigned("top_k", self.top_k),
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=unsigned("seed", self.seed, LARGEST_UINT64),
            stop_tokens=(ctypes.c_int32 * len(stops))(*stops.tolist()),
            stop_token_count=len(stops),
            speculation=number_of("speculation", self.speculation, SPECULATION_NUMBERS),
            tokens_to_follow=unsigned("tokens_to_follow", self.tokens_to_follow),
        )


@dataclasses.dataclass(frozen=True)
class GenerationCounters:
    """What generating and prefilling have cost; the fields of v2e_session_counters."""

    tokens: int
    """Chosen and decoded."""
    steps: int
    """Of the decoder: as many as tokens without drafts."""
    drafted_tokens: int
    """Checked in these steps."""
    accepted_tokens: int
    """Of the drafted ones: tokens that needed no step of their own."""
    prefilled_positions: int
    reused_positions: int
    """Of the prefilled ones: computed by an earlier call, of this session or another."""

    @classmethod
    def of(cls, struct: SessionCountersStruct) -> GenerationCounters:
        """The counters that the core has filled in."""
        return cls(*(int(getattr(struct, name)) for name in COUNTER_FIELDS))
