"""What a decoder is to the rest of the run time, whichever engine computes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from valley2_edge.options import SessionOptions
from valley2_edge.runtime.core.generation import GenerateOptions, GenerationCounters, StopReason

Segment = npt.NDArray[np.int32] | npt.NDArray[np.float32]
"""Token ids (n,) int32, or embeddings (n, hidden_size) float32."""
OnProgress = Callable[[int, int], bool | None]
"""Called with (positions done, positions in all); returning False cancels."""
OnToken = Callable[[int], bool | None]
"""Called with every new token id; returning False cancels."""


@dataclass(frozen=True)
class DecoderDescription:
    """What a decoder is and what it costs; the fields of v2e_model_description."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary_size: int
    max_context: int
    """Positions that the model was trained for."""
    threads: int
    isa: str
    """Instruction set of the native core, or ONNX Runtime's provider and the arithmetic of its graphs."""
    weight_bytes: int
    """Bytes of weights that are read for one decoded token."""
    mapped_bytes: int
    """Bytes of the files that are mapped from disk."""
    device: str = "cpu"
    """"cuda" when at least one layer is on an NVIDIA GPU, else "cpu"."""
    gpu_layers: int = 0
    """Number of layers on the GPU."""
    gpu_bytes: int = 0
    """Bytes of weights on the GPU."""
    device_name: str = ""
    """Name of the GPU or of ONNX Runtime's provider; empty without one."""
    device_reason: str = ""
    """Why "auto" chose the CPU, as part of a sentence; else empty."""


@dataclass(frozen=True)
class PrefixCacheState:
    """What sessions have left for others; the fields of v2e_prefix_cache."""

    budget_bytes: int
    kept_bytes: int
    """Bytes of pages that no session holds."""
    pages: int
    """Number of pages that can be found, those that sessions hold included."""


class DecoderSessionEngine(Protocol):
    """One conversation with a decoder; `DecoderSession` says what each method does and raises."""

    @property
    def length(self) -> int:
        """Positions in the KV cache."""

    @property
    def kv_bytes(self) -> int:
        """Bytes that the KV cache holds now."""

    @property
    def counters(self) -> GenerationCounters:
        """What `generate` has cost since the session was opened."""

    def prefill(self, segments: Sequence[Segment], logit_rows: int = 1, on_progress: OnProgress | None = None) -> None:
        """Appends segments; after a failure or a cancellation the session is as it was before."""

    def logits(self, rows: int = 1) -> npt.NDArray[np.float32]:
        """The last rows of logits kept by the last prefill or decode step: (rows, vocabulary_size) float32."""

    def generate(self, options: GenerateOptions, on_token: OnToken | None = None) -> StopReason:
        """Chooses tokens, reports each and decodes it."""

    def truncate(self, length: int) -> None:
        """Forgets all positions from `length` on."""

    @property
    def note(self) -> str:
        """What was given to `save` beside the session; empty when it was not loaded."""

    def save(self, path: Path, note: str = "") -> None:
        """Writes the session to a file."""

    def cancel(self) -> None:
        """Stops the running call, or else the next ones, until `resume`; legal from every thread."""

    def resume(self) -> None:
        """Ends the effect of `cancel`."""

    def close(self) -> None:
        """Frees the KV cache."""

    def __enter__(self) -> DecoderSessionEngine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class DecoderEngine(Protocol):
    """A decoder, shared by its sessions; `Decoder` says what each method does and raises."""

    @property
    def description(self) -> DecoderDescription:
        """What it is and what it costs."""

    @property
    def finest_kv_precision(self) -> str:
        """The `kv_precision` that loses least."""

    def embed(self, tokens: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Rows of the embedding table, (n, hidden_size) float32."""

    def session(self, options: SessionOptions = ..., *, reuse: str = ..., **changes: Any) -> DecoderSessionEngine:
        """A new, empty session."""

    def load_session(self, path: Path) -> DecoderSessionEngine:
        """A session that goes on where a saved one stood."""

    @property
    def prefix_cache(self) -> PrefixCacheState:
        """KV pages that sessions have left for others."""

    def resize_prefix_cache(self, budget_bytes: int) -> None:
        """Sets another budget for KV pages that no session holds."""

    def trim(self) -> None:
        """Gives back what nothing needs until the next call."""

    def close(self) -> None:
        """Gives the weights back, as soon as the last of its sessions is closed as well."""
