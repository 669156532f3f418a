"""Measures the decoder: prefills of several lengths, and decoding after a context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from valley2_edge.bench.alternation import Limits, Measurement, Pause, Sample, Work
from valley2_edge.bench.work import prefill_operations
from valley2_edge.config import DecoderConfig
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.generation import GenerateOptions
from valley2_edge.runtime.core.probe import LimitName

TOKENS_BETWEEN_PAUSES = 4
Repeated = Callable[[], None]


@dataclass(frozen=True)
class Plan:
    """How often each piece of work is done."""

    warm_up: int
    """Repetitions before those that count."""
    repetitions: int
    """Repetitions that count."""

    def run(self, limits: Limits, limit: LimitName, work: Work, done: Repeated) -> tuple[Sample, ...]:
        """Samples of the repetitions that count; `done` is called after every one of both kinds."""
        samples = []
        for _ in range(self.warm_up + self.repetitions):
            samples.append(limits.sample(limit, work))
            done()
        return tuple(samples[self.warm_up :])


def measure_prefill(
    decoder: Decoder, config: DecoderConfig, positions: int, plan: Plan, limits: Limits, done: Repeated
) -> Measurement:
    """Prefills a session that is empty before.

    Args:
        decoder: The decoder to measure.
        config: Sizes of the decoder.
        positions: Number of positions to prefill.
        plan: How often to repeat the work.
        limits: The machine's limits, measured in between.
        done: Called after every repetition.

    Raises:
        BudgetError: The context or the memory does not suffice.
    """
    rows = _embeddings(decoder, positions)
    limit: LimitName = "fp16" if decoder.description.device == "cuda" else "int8"
    with decoder.session() as session:

        def prefill(pause: Pause) -> None:
            session.truncate(0)
            session.prefill([rows], on_progress=lambda reached, total: pause() if reached < total else None)

        samples = plan.run(limits, limit, prefill, done)
    return Measurement(
        "tokens", positions, prefill_operations(config, positions), limit, samples, {"positions": positions}
    )


def measure_decode(
    decoder: Decoder, context: int, tokens: int, plan: Plan, limits: Limits, done: Repeated
) -> Measurement:
    """Decodes greedily after a context, one token a call as a conversation does, each in a step of its own.

    Args:
        decoder: The decoder to measure.
        context: Positions before the first token.
        tokens: To decode in every repetition.
        plan: How often to repeat the work.
        limits: The machine's limits, measured in between.
        done: Called after every repetition.

    Raises:
        BudgetError: The context or the memory does not suffice.
    """
    rows = _embeddings(decoder, context)
    one = GenerateOptions(max_new_tokens=1, speculation="off")
    with decoder.session() as session:
        session.prefill([rows])

        def decode(pause: Pause) -> None:
            for index in range(tokens):
                if index and index % TOKENS_BETWEEN_PAUSES == 0:
                    pause()
                session.generate(one)

        def begin_again() -> None:
            session.truncate(context - 1)
            session.prefill([rows[-1:]])

        begin_again()

        def repeated() -> None:
            begin_again()
            done()

        samples = plan.run(limits, "read", decode, repeated)
        bytes_read = tokens * (decoder.description.weight_bytes + session.kv_bytes)
    facts = {"context": context, "tokens": tokens, "bytes_per_token": bytes_read // tokens}
    return Measurement("tokens", tokens, bytes_read, "read", samples, facts)


def _embeddings(decoder: Decoder, positions: int) -> npt.NDArray[np.float32]:
    """Random input of the decoder, (positions, hidden_size)."""
    shape = (positions, decoder.description.hidden_size)
    return np.random.default_rng(0).standard_normal(shape, np.float32)
