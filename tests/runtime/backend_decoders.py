"""Decoders that a backend computes, written for tests, and the folder of a bundle that they need."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from decoder_files import TinyConfig, random_weights, write_decoder

from valley2_edge.bundle import FORMAT_VERSION
from valley2_edge.errors import Cancelled
from valley2_edge.runtime.core.backend import BackendComponent, BackendCost, BackendRun
from valley2_edge.runtime.core.decoder import Decoder

CONFIG = TinyConfig(num_hidden_layers=2, max_position_embeddings=640)


def write_bundle(directory: Path, config: TinyConfig = CONFIG) -> Path:
    """Writes a decoder, and the manifest with its sizes beside it. Returns the decoder's directory."""
    decoder = directory / "decoder"
    decoder.mkdir(parents=True)
    write_decoder(decoder, config, random_weights(config))
    manifest = {
        "format": "valley2-bundle",
        "format_version": FORMAT_VERSION,
        "architecture": {"decoder": asdict(config)},
    }
    (directory / "valley2.json").write_text(json.dumps(manifest))
    return decoder


class Relay:
    """A backend whose engines are sessions of the native decoder: what it computes has the native decoder's bits.

    Args:
        directory: Of the native decoder.
        change: What is done to the logits (rows, vocabulary_size) of every run.
    """

    name = "the relay"

    def __init__(
        self, directory: Path, change: Callable[[BackendRun, np.ndarray], None] = lambda call, logits: None
    ) -> None:
        self.native = Decoder(directory, threads=1)
        self.change = change
        self.runs: list[tuple[int, int, int]] = []
        """Where each run began, how many positions it had, and of how many the logits were wanted."""
        self.open_engines = 0
        self.costs = BackendCost(weight_bytes=1000)

    def open(self, component: BackendComponent) -> RelayEngine:
        assert component == "decoder"
        self.open_engines += 1
        return RelayEngine(self)

    def cost(self, component: BackendComponent, count: int, positions: int) -> BackendCost:
        assert component == "decoder"
        return self.costs


class RelayEngine:
    """A session of the native decoder."""

    def __init__(self, backend: Relay) -> None:
        self._backend = backend
        self._session = backend.native.session()

    def run(self, call: BackendRun) -> None:
        self._backend.runs.append((call.past, len(call.values), call.logit_rows))
        self._session.truncate(call.past)
        self._session.prefill([call.values], logit_rows=call.logit_rows)
        logits = call.output.reshape(-1, self._backend.native.description.vocabulary_size)
        if call.logit_rows:
            logits[:] = self._session.logits(call.logit_rows)
        self._backend.change(call, logits)

    def cancel(self) -> None: ...

    def close(self) -> None:
        self._session.close()
        self._backend.open_engines -= 1


class Fixed:
    """A backend that always computes the same logits.

    Args:
        logits: (vocabulary_size,).
    """

    name = "fixed logits"

    def __init__(self, logits: np.ndarray) -> None:
        self._logits = logits

    def open(self, component: BackendComponent) -> Fixed:
        return self

    def cost(self, component: BackendComponent, count: int, positions: int) -> BackendCost:
        return BackendCost()

    def run(self, call: BackendRun) -> None:
        call.output.reshape(-1, len(self._logits))[:] = self._logits

    def cancel(self) -> None: ...

    def close(self) -> None: ...


class Waiting(Fixed):
    """A backend whose runs last until they are cancelled, once it is told to."""

    name = "waiting"

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__(logits)
        self.waits = False
        self.begun = threading.Event()
        self._stopped = threading.Event()

    def open(self, component: BackendComponent) -> Waiting:
        return self

    def run(self, call: BackendRun) -> None:
        if self.waits:
            self.begun.set()
            assert self._stopped.wait(30), "no cancel came"
            raise Cancelled("The wait was cancelled.")
        super().run(call)

    def cancel(self) -> None:
        self._stopped.set()
