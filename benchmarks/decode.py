"""Measures prefill and decode of the native decoder at the released shapes, as shares of the machine's read bandwidth.

    python benchmarks/decode.py --layers 4 --precision int4     # a random decoder, made in a temporary directory
    python benchmarks/decode.py --decoder BUNDLE/decoder

Every round reads a large block of memory with the same number of threads, then decodes, so that both meet the same
neighbours on a shared machine. Figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from valley2_edge.bundle import DecoderPrecision
from valley2_edge.config import DecoderConfig
from valley2_edge.errors import Valley2Error
from valley2_edge.runtime.decoder import Decoder
from valley2_edge.runtime.generation import GenerateOptions

PROBE_BYTES = 1 << 30
WARM_UP_TOKENS = 4


@dataclass
class Round:
    """One round; seconds, and bytes a second."""

    read_rate: float
    prefill_seconds: float
    decode_seconds: float


def read_rate(block: npt.NDArray[np.uint8], threads: int) -> float:
    """Bytes a second at which this machine reads memory: each thread searches its part for a byte that is not there."""
    search = ctypes.CDLL(None).memchr
    search.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    search.restype = ctypes.c_void_p
    part = len(block) // threads
    addresses = [block.ctypes.data + index * part for index in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        for _ in pool.map(lambda address: search(address, 1, part), addresses):
            pass
        return part * threads / (time.perf_counter() - began)


def measure(decoder: Decoder, prompt_length: int, new_tokens: int, rounds: int) -> list[Round]:
    """Prefills and decodes in a new session for each round.

    Args:
        decoder: Any decoder.
        prompt_length: Token ids to prefill.
        new_tokens: Tokens to decode after it.
        rounds: How often.
    """
    threads = decoder.description.threads
    block = np.zeros(PROBE_BYTES, np.uint8)
    block[::4096] = 2  # pages of zeros that were never written are all the same page
    ids = np.random.default_rng(0).integers(0, decoder.description.vocabulary_size, prompt_length, dtype=np.int32)
    results = []
    for _ in range(rounds):
        rate = read_rate(block, threads)
        session = decoder.session()
        began = time.perf_counter()
        session.prefill([ids])
        prefilled = time.perf_counter()
        session.generate(GenerateOptions(max_new_tokens=WARM_UP_TOKENS))
        warm = time.perf_counter()
        session.generate(GenerateOptions(max_new_tokens=new_tokens))
        results.append(Round(rate, prefilled - began, time.perf_counter() - warm))
        session.close()
    return results


def report(decoder: Decoder, results: list[Round], prompt_length: int, new_tokens: int) -> None:
    """Prints the medians."""
    about = decoder.description
    per_token = statistics.median(result.decode_seconds / new_tokens for result in results)
    shares = [about.weight_bytes * new_tokens / result.decode_seconds / result.read_rate for result in results]
    prefill = statistics.median(prompt_length / result.prefill_seconds for result in results)
    print(
        f"{about.layers} layers of {about.hidden_size}/{about.intermediate_size}, {about.isa}, {about.threads} threads"
    )
    print(f"machine reads  {statistics.median(result.read_rate for result in results) / 1e9:8.1f} GB/s")
    print(f"prefill        {prefill:8.1f} tokens/s at {prompt_length} positions")
    print(f"decode         {1 / per_token:8.1f} tokens/s, {about.weight_bytes / 1e9:.2f} GB of weights a token")
    share = statistics.median(shares)
    print(f"decode reads   {about.weight_bytes / per_token / 1e9:8.1f} GB/s, {share:.2f} of the machine")


@contextlib.contextmanager
def random_decoder(layers: int, precision: DecoderPrecision, group_size: int) -> Iterator[Path]:
    """A decoder directory with the released shapes and random weights; gone at the end of the block."""
    import torch

    from valley2_edge.export.decoder import decoder_formats, export_decoder, export_embeddings
    from valley2_edge.export.layout import decoder_tensors

    class RandomSource:
        """Every tensor is a scaled piece of one block of normal numbers."""

        def __init__(self, config: DecoderConfig) -> None:
            self._shapes = decoder_tensors(config)
            self._block = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0))

        def shape(self, name: str) -> tuple[int, ...]:
            return self._shapes[name]

        def dtype(self, name: str) -> torch.dtype:
            return torch.bfloat16

        def tensor(self, name: str) -> torch.Tensor:
            return self.rows(name, 0, self._shapes[name][0])

        def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
            shape = (stop - start, *self._shapes[name][1:])
            scale = shape[1] ** -0.5 if len(shape) > 1 else 1.0
            return (self._block[: prod(shape)] * scale).to(torch.bfloat16).reshape(shape)

    config = DecoderConfig(num_hidden_layers=layers)
    with tempfile.TemporaryDirectory() as directory:
        source = RandomSource(config)
        export_decoder(source, config, Path(directory), decoder_formats(precision, group_size=group_size))
        export_embeddings(source, config, Path(directory))
        yield Path(directory) / "decoder"


def main() -> int:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoder", type=Path, help="decoder directory of a bundle; default: a random one")
    parser.add_argument("--layers", type=int, default=4, help="of the random decoder")
    parser.add_argument("--precision", default="int4", choices=("int4", "int8", "fp16", "fp32"))
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0, help="default: as many as the process may run on")
    parser.add_argument("--activations", default="int8", choices=("int8", "int16"))
    parser.add_argument("--prompt-length", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    try:
        with contextlib.ExitStack() as stack:
            directory = arguments.decoder or stack.enter_context(
                random_decoder(arguments.layers, arguments.precision, arguments.group_size)
            )
            decoder = stack.enter_context(
                Decoder(directory, threads=arguments.threads, activations=arguments.activations)
            )
            results = measure(decoder, arguments.prompt_length, arguments.new_tokens, arguments.rounds)
            report(decoder, results, arguments.prompt_length, arguments.new_tokens)
    except Valley2Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
