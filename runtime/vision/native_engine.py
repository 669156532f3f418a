"""A vision engine that the native core computes."""

from __future__ import annotations

from pathlib import Path

from valley2_edge.config import ModelConfig
from valley2_edge.errors import BundleError
from valley2_edge.runtime.cancellation import CancelToken, run_interruptibly
from valley2_edge.runtime.core.binding import Stamp
from valley2_edge.runtime.core.tower import NativeTower, VocabularyUse
from valley2_edge.runtime.core.vision_engine import Array, ComponentName, EngineInputs


class NativeEngine:
    """A tower in a bundle's safetensors file.

    Args:
        path: The file.
        name: siglip, projector or eagle.
        architecture: The bundle's architecture, which gives the output its shape.
        threads: Number of CPU threads.
        isa: Instruction set of the kernels.
        stamp: What the file was when it was checked; None: any file will do.

    Raises:
        BundleError: The file is damaged, not understood, or not the one that was checked.
        InputError: The machine lacks the instruction set.
    """

    def __init__(
        self,
        path: Path,
        name: ComponentName,
        architecture: ModelConfig,
        *,
        threads: int,
        isa: str = "auto",
        stamp: Stamp | None = None,
    ) -> None:
        self._name = name
        self._architecture = architecture
        self._tower = NativeTower(path, threads=threads, isa=isa, stamp=stamp)
        kind = self._tower.description.kind
        if kind != name:
            self._tower.close()
            raise BundleError(f"{path} holds the tower {kind} instead of {name}.")

    @property
    def providers(self) -> list[str]:
        """The core and its instruction set."""
        return [f"native {self._tower.description.isa}"]

    @property
    def vocabulary(self) -> VocabularyUse:
        """What the last run of a projector left out of the visual vocabulary."""
        return self._tower.vocabulary

    def run(self, inputs: EngineInputs, cancel: CancelToken | None) -> Array:
        """Computes one call, as `VisionEngine.run` says."""
        values = next(inputs[key] for key in ("tiles", "features", "patches") if key in inputs)
        token = cancel or CancelToken()
        with token.stopping(self._tower.cancel):
            try:
                output: Array = run_interruptibly(
                    lambda: self._tower.run(values, inputs.get("positions")), self._tower.cancel
                )
            finally:
                self._tower.resume()
        return output.reshape(self._shape(len(values)))

    def close(self) -> None:
        """Gives the weights and the threads back."""
        self._tower.close()

    def _shape(self, count: int) -> tuple[int, ...]:
        siglip, projector = self._architecture.siglip, self._architecture.projector
        if self._name == "siglip":
            return count, siglip.patches_per_side**2, siglip.hidden_size
        if self._name == "projector":
            return count, projector.tokens_per_side**2, projector.output_size
        return -1, projector.output_size
