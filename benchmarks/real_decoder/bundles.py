"""Exports one of this project's variants and measures its decoder."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from figures import Figures, Floats, measure_windows
from variants import OWN_TEXT, Export
from windows import PREDICTIONS
from work import WorkFolder

from valley2_edge.errors import InputError
from valley2_edge.options import LoadOptions
from valley2_edge.runtime.core.decoder import Decoder

_HEADER_LENGTH_BYTES = 8
_BYTES = {"U8": 1, "I8": 1, "F16": 2, "BF16": 2, "F32": 4}


def export_variant(name: str, variant: Export, work: WorkFolder) -> float:
    """Exports the bundle by the command that a person types.

    The quality report is left out: it is measured with pictures, which mean nothing to this decoder.

    Args:
        name: The variant's name.
        variant: Its command line.
        work: Where the checkpoint is, and where the bundle goes; a bundle that is there is replaced.

    Returns:
        Processor seconds of the export.

    Raises:
        InputError: The export fails; its message is above.
    """
    target = work.bundle(name)
    shutil.rmtree(target, ignore_errors=True)
    arguments = [argument.replace(OWN_TEXT, str(work.calibration)) for argument in variant.arguments]
    command = [sys.executable, "-m", "valley2_edge", "export", str(work.checkpoint(variant.base))]
    command += ["--output", str(target), "--quality-samples", "0", *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if subprocess.run(command, check=False).returncode != 0:
        raise InputError(f"Variant {name} cannot be exported; the message is above.")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_bundle(
    bundle: Path,
    windows: Sequence[int],
    ids: npt.NDArray[np.int32],
    reference: Floats,
    options: LoadOptions,
    on_window: Callable[[int], None],
) -> tuple[Figures, dict[str, Any]]:
    """Runs a bundle's decoder over the windows by the core, as a chat does, from an empty session each.

    Args:
        bundle: The bundle's folder.
        windows: Indices of the windows.
        ids: All windows, (n, 512).
        reference: Log-probabilities, (n, 511, vocabulary).
        options: Threads, instruction set and activations.
        on_window: Called with the index of each finished window.

    Returns:
        The figures, and facts for the result: bits a weight and the instruction set.
    """
    with Decoder(bundle / "decoder", options) as decoder:

        def run(tokens: npt.NDArray[np.int32]) -> Floats:
            with decoder.session() as session:
                session.prefill([tokens], logit_rows=PREDICTIONS)
                return session.logits(PREDICTIONS)

        figures = measure_windows(run, windows, ids, reference, on_window)
        facts = {"isa": decoder.description.isa, "bits": layer_bits(bundle / "decoder" / "decoder.safetensors")}
    return figures, facts


@dataclass(frozen=True)
class _Header:
    metadata: dict[str, str]
    tensors: dict[str, Any]


def layer_bits(path: Path) -> float:
    """Stored bits for each weight of the layers' matrices, with scales, zero points and padding to whole panels."""
    header = _read_header(path)
    matrices = json.loads(header.metadata["matrices"])
    weights = sum(matrix["rows"] * matrix["columns"] for name, matrix in matrices.items() if name.startswith("layers."))
    stored = sum(
        prod(tensor["shape"]) * _BYTES[tensor["dtype"]]
        for name, tensor in header.tensors.items()
        if name.startswith("layers.") and not name.endswith(("_norm", ".bias"))
    )
    return float(8 * stored / weights)


def _read_header(path: Path) -> _Header:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(_HEADER_LENGTH_BYTES), "little")
        content = json.loads(stream.read(length))
    return _Header(content.pop("__metadata__"), content)
