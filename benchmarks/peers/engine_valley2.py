"""This project: int4 in groups of 128 with zero points, int8 activations.

The output matrix is int8, as an export makes it, or in the second engine int4, as ONNX Runtime's is.
"""

from __future__ import annotations

import time
from pathlib import Path

from engine import GROUP_SIZE, MATRICES, About, Shape, random_rows

from valley2_edge.bench.synthetic_decoder import SyntheticDecoder
from valley2_edge.config import DecoderConfig
from valley2_edge.precisions import DecoderPrecision
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.generation import GenerateOptions
from valley2_edge.runtime.core.probe import Probe
from valley2_edge.version import __version__

PANEL = 64
ONE_TOKEN = GenerateOptions(max_new_tokens=1, speculation="off")


class Valley2Engine:
    """The native decoder, and the probe of the machine's limits."""

    def __init__(
        self, shape: Shape, threads: int, most: int, scratch: Path, head_precision: DecoderPrecision = "int8"
    ) -> None:
        config = DecoderConfig(
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            vocab_size=shape.vocabulary,
            max_position_embeddings=max(most, 32768),
        )
        SyntheticDecoder(config, group_size=GROUP_SIZE, lm_head_precision=head_precision).write(scratch)
        self._decoder = Decoder(scratch, threads=threads)
        self._session = self._decoder.session()
        self._probe = Probe(threads)
        self._rows = random_rows(shape, most)
        layer_bytes = sum(_int4_bytes(*shape.matrix(name)) for name in MATRICES)
        head = self._decoder.description.weight_bytes - shape.layers * layer_bytes
        self.about = About(
            f"valley2-edge {__version__}, {self._decoder.description.isa}",
            f"int4 g128 with zero points, lm_head {head_precision}",
            layer_bytes,
            head,
            ("qkv",),
        )

    def prefill(self, positions: int) -> float:
        """See `Engine`."""
        self._session.truncate(0)
        begin = time.perf_counter()
        self._session.prefill([self._rows[:positions]])
        return time.perf_counter() - begin

    def decode(self, tokens: int) -> float:
        """See `Engine`."""
        begin = time.perf_counter()
        for _ in range(tokens):
            self._session.generate(ONE_TOKEN)
        return time.perf_counter() - begin

    def limits(self, _amount: int) -> tuple[float, float]:
        """int8 operations and bytes read a second, of this moment."""
        return self._probe.read("int8"), self._probe.read("read")


def open_engine(shape: Shape, threads: int, most: int, scratch: Path) -> Valley2Engine:
    """See worker.py."""
    return Valley2Engine(shape, threads, most, scratch)


def open_engine_with_int4_head(shape: Shape, threads: int, most: int, scratch: Path) -> Valley2Engine:
    """Opens the decoder with its output matrix in int4; see worker.py."""
    return Valley2Engine(shape, threads, most, scratch, "int4")


def _int4_bytes(rows: int, columns: int) -> int:
    """Bytes of a matrix with its scales in fp16 and its zero points in bytes."""
    padded = -(-rows // PANEL) * PANEL
    return padded * columns // 2 + padded * (columns // 128) * 3
