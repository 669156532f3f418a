"""Measures what drafts save where an answer copies, and what they cost where it does not, at the released shapes.

    python benchmarks/speculation.py --layers 4 --precision int4

The decoder is made in a temporary directory. Its weights are synthetic and as many as in the released shapes, but its
text is known beforehand: after token n it says n + 1. So the prompt alone decides how often drafts are right:

  copying      the answer stands in the prompt, in shuffled pieces, as the lines of a receipt do in its attributes
  fresh        nothing in the prompt or in the answer repeats
  misleading   every two tokens of the answer stand in the prompt, but other ones follow them there

A round answers each prompt twice, with drafts and without, each in a new session; the order changes from round to
round. Figures are medians of the rounds' ratios. The cost of a step by its rows is measured in the same way.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from valley2_edge.config import DecoderConfig
from valley2_edge.errors import Valley2Error
from valley2_edge.precisions import DecoderPrecision
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.generation import GenerateOptions, GenerationCounters

Tokens = npt.NDArray[np.int32]
START = 1000
"""The prompt's last token; the answer counts on from it."""
OTHER = 100_000
"""Tokens from here on are in no answer."""
WARM_UP_TOKENS = 4
ROWS = (2, 3, 4, 6, 8, 12, 16)
EMBEDDING_STRIDE = 97
"""Numbers of the block between the embeddings of two tokens: they overlap, but are as good as orthogonal."""


def copying(length: int, piece: int, random: np.random.Generator) -> Tokens:
    """The answer's tokens in shuffled pieces."""
    answer = np.arange(START + 1, START + 1 + length, dtype=np.int32)
    pieces = [answer[begin : begin + piece] for begin in range(0, length, piece)]
    return np.concatenate([pieces[index] for index in random.permutation(len(pieces))])


def fresh(length: int, _piece: int, random: np.random.Generator) -> Tokens:
    """Tokens that are in no answer, each once."""
    return (OTHER + random.permutation(length)).astype(np.int32)


def misleading(length: int, _piece: int, random: np.random.Generator) -> Tokens:
    """Two tokens of the answer and one that is in none, over and over."""
    firsts = START + 1 + 2 * random.permutation(length // 2)
    return np.stack([firsts, firsts + 1, OTHER + firsts], axis=1).ravel().astype(np.int32)


WORK: dict[str, Callable[[int, int, np.random.Generator], Tokens]] = {
    "copying": copying,
    "fresh": fresh,
    "misleading": misleading,
}


@dataclass
class Answer:
    """One answer."""

    tokens: list[int]
    seconds: float
    counters: GenerationCounters
    """What the answer cost, its warm-up included."""


def answer(decoder: Decoder, prompt: Tokens, new_tokens: int, speculation: str) -> Answer:
    """Prefills the prompt and times what follows it, a few tokens apart."""
    tokens: list[int] = []
    with decoder.session() as session:
        session.prefill([prompt])
        session.generate(
            GenerateOptions(max_new_tokens=WARM_UP_TOKENS, speculation=speculation, tokens_to_follow=new_tokens),
            tokens.append,
        )
        began = time.perf_counter()
        session.generate(GenerateOptions(max_new_tokens=new_tokens, speculation=speculation), tokens.append)
        return Answer(tokens, time.perf_counter() - began, session.counters)


def compare(decoder: Decoder, prompt: Tokens, new_tokens: int, rounds: int) -> tuple[list[float], GenerationCounters]:
    """Time without drafts divided by time with them, round by round, and what the last drafts came to.

    Raises:
        Valley2Error: an answer is not the one that the decoder was made for.
    """
    expected = list(range(START + 1, START + 1 + WARM_UP_TOKENS + new_tokens))
    ratios = []
    for index in range(rounds):
        answers = {}
        for speculation in ("off", "auto") if index % 2 == 0 else ("auto", "off"):
            answers[speculation] = answer(decoder, prompt, new_tokens, speculation)
            if answers[speculation].tokens != expected:
                raise Valley2Error(f"With speculation {speculation} the decoder does not count.")
        ratios.append(answers["off"].seconds / answers["auto"].seconds)
    return ratios, answers["auto"].counters


def row_costs(decoder: Decoder, prompt: Tokens, rounds: int) -> dict[int, float]:
    """Time of a step over several rows, in steps over one row: medians of the rounds."""
    ratios: dict[int, list[float]] = {rows: [] for rows in ROWS}
    with decoder.session() as session:
        session.prefill([prompt])

        def step(rows: int) -> float:
            session.truncate(len(prompt))
            began = time.perf_counter()
            session.prefill([prompt[:rows]], logit_rows=rows)
            return time.perf_counter() - began

        for _ in range(rounds):
            for rows in ROWS:
                before = step(1)
                several = step(rows)
                ratios[rows].append(2 * several / (before + step(1)))
    return {rows: statistics.median(found) for rows, found in ratios.items()}


@contextlib.contextmanager
def counting_decoder(layers: int, precision: DecoderPrecision, group_size: int) -> Iterator[Path]:
    """A decoder directory with the released shapes, which counts; gone at the end of the block."""
    import torch

    from valley2_edge.export.checkpoint.tensor_names import decoder_tensors
    from valley2_edge.export.decoder.formats import decoder_formats
    from valley2_edge.export.decoder.writer import export_decoder, export_embeddings

    class CountingSource:
        """Random weights that hardly change the residual stream, and the embeddings, a token later, as output head."""

        def __init__(self, config: DecoderConfig) -> None:
            self._shapes = decoder_tensors(config)
            self._block = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)

        def shape(self, name: str) -> tuple[int, ...]:
            return self._shapes[name]

        def dtype(self, name: str) -> torch.dtype:
            return torch.bfloat16

        def tensor(self, name: str) -> torch.Tensor:
            return self.rows(name, 0, self._shapes[name][0])

        def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
            shape = (stop - start, *self._shapes[name][1:])
            if name.endswith("norm.weight"):
                return torch.ones(shape, dtype=torch.bfloat16)
            if name.startswith(("model.embed_tokens.", "lm_head.")):
                tokens = torch.arange(start, stop) - (1 if name.startswith("lm_head.") else 0)
                first = tokens.clamp(min=0)[:, None] * EMBEDDING_STRIDE
                return self._block.index_select(0, (first + torch.arange(shape[1])).ravel()).reshape(shape)
            scale: float = 0.01 * shape[-1] ** -0.5
            return (self._block[: prod(shape)] * scale).reshape(shape)

    config = DecoderConfig(num_hidden_layers=layers)
    with tempfile.TemporaryDirectory() as directory:
        source = CountingSource(config)
        export_decoder(source, config, Path(directory), decoder_formats(precision, group_size=group_size))
        export_embeddings(source, config, Path(directory))
        yield Path(directory) / "decoder"


def report(decoder: Decoder, arguments: argparse.Namespace) -> None:
    """Measures and prints."""
    about = decoder.description
    print(
        f"{about.layers} layers of {about.hidden_size}/{about.intermediate_size}, {about.isa}, {about.threads} threads"
    )
    random = np.random.default_rng(0)
    for name in arguments.work:
        body = WORK[name](arguments.new_tokens + WARM_UP_TOKENS, arguments.piece, random)
        prompt = np.append(body, np.array([OTHER - 1, START], np.int32))
        ratios, counters = compare(decoder, prompt, arguments.new_tokens, arguments.rounds)
        print(
            f"{name:12s} {statistics.median(ratios):5.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f}), "
            f"{counters.tokens / counters.steps:.2f} tokens a step, "
            f"{counters.accepted_tokens} of {counters.drafted_tokens} drafted tokens accepted",
            flush=True,
        )
    costs = row_costs(decoder, prompt, arguments.rounds)
    print("step over rows, in steps over one: " + ", ".join(f"{rows}: {cost:.2f}" for rows, cost in costs.items()))


def main() -> int:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--precision", default="int4", choices=("int4", "int8", "fp16"))
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0, help="default: as many as the process may run on")
    parser.add_argument("--isa", default="auto")
    parser.add_argument("--work", nargs="+", default=list(WORK), choices=list(WORK))
    parser.add_argument("--piece", type=int, default=16, help="tokens that are copied in one go")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    try:
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(
                counting_decoder(arguments.layers, arguments.precision, arguments.group_size)
            )
            report(stack.enter_context(Decoder(directory, threads=arguments.threads, isa=arguments.isa)), arguments)
    except Valley2Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
