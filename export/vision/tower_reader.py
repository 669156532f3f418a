"""Reads native vision towers back, their weights bit for bit (docs/bundle.md, "Native vision towers").

Needs no torch, so that graphs are made of a bundle's towers on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from valley2_edge.errors import BundleError, CheckpointError, ExportError
from valley2_edge.export.checkpoint.shards import StoredTensor, read_header
from valley2_edge.outside_files import json_object, open_regular, parse_json
from valley2_edge.runtime.core.vision_engine import ComponentName

if TYPE_CHECKING:
    from valley2_edge.export.onnx.graph import MatrixValues

PANEL = 32
"""Number of outputs in a panel; the core has the same number as VISION_PANEL."""
_WORD_BYTES = 4
_DTYPES: dict[str, tuple[str, type[np.generic]]] = {"bf16": ("BF16", np.uint16), "fp32": ("F32", np.float32)}

Floats = NDArray[np.float32]


class TowerReader:
    """A tower in bf16 or fp32; every read opens the file anew.

    Args:
        path: The tower's file.
        component: Which tower it must be.
        on_matrix: Called behind every matrix that was read; an exception of it ends the work.

    Raises:
        BundleError: The file is missing, damaged, or not this tower.
        ExportError: The tower is int8, which rounds and smooths: its numbers are not the checkpoint's.
    """

    def __init__(self, path: Path, component: ComponentName, on_matrix: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self._on_matrix = on_matrix
        try:
            self._tensors = read_header(path)
            with safe_open(path, "np") as reader:
                metadata: dict[str, str] = reader.metadata() or {}
        except CheckpointError as error:
            raise BundleError(str(error)) from error
        except (OSError, SafetensorError) as error:
            raise BundleError(f"{path} cannot be read: {error}") from error
        if (metadata.get("format"), metadata.get("format_version")) != ("valley2-tower", "1"):
            raise BundleError(f"{path} is not a vision tower that this release reads; export the bundle again")
        if metadata.get("tower") != component:
            raise BundleError(f"{path} is not the {component} tower")
        self.config: dict[str, Any] = self._json(metadata, "config")
        """The sizes of the tower, as the bundle's architecture has them."""
        self._matrices = self._json(metadata, "matrices")
        if any(isinstance(entry, dict) and entry.get("precision") == "int8" for entry in self._matrices.values()):
            raise ExportError(
                f"{path} is a tower in int8, of which no graph can be made; "
                "export the bundle with --vision-precision bf16"
            )

    @property
    def matrix_count(self) -> int:
        """Number of matrices."""
        return len(self._matrices)

    def matrix(self, name: str, outputs: int, columns: int) -> MatrixValues:
        """Reads a matrix.

        Args:
            name: Its name.
            outputs: Number of outputs that it must have.
            columns: Number of inputs that it must have.

        Returns:
            (outputs, columns).

        Raises:
            BundleError: There is no such matrix.
        """
        panels = self._panels(name, outputs, columns)  # (panels, words, 32, columns in a word)
        rows = panels.transpose(0, 2, 1, 3).reshape(len(panels) * PANEL, -1)
        return rows[:outputs, :columns]

    def transposed(self, name: str, outputs: int, columns: int) -> MatrixValues:
        """Reads a matrix with its axes exchanged.

        Args:
            name: Its name.
            outputs: Number of outputs that it must have.
            columns: Number of inputs that it must have.

        Returns:
            (columns, outputs).

        Raises:
            BundleError: There is no such matrix.
        """
        panels = self._panels(name, outputs, columns)
        rows = panels.transpose(1, 3, 0, 2).reshape(-1, len(panels) * PANEL)
        return rows[:columns, :outputs]

    def vector(self, name: str, *shape: int) -> Floats:
        """Reads a bias, a scale, or rows of vectors, without what fills them up to a multiple of 32.

        Args:
            name: The tensor's name.
            shape: The shape that it must have without padding.

        Returns:
            float32 of this shape.

        Raises:
            BundleError: There is no such tensor.
        """
        padded = (*shape[:-1], -(-shape[-1] // PANEL) * PANEL)
        values: Floats = self._read(name, "F32", padded, np.float32)
        return values[..., : shape[-1]]

    def _panels(self, name: str, outputs: int, columns: int) -> NDArray[Any]:
        entry = self._matrices.get(name)
        if not isinstance(entry, dict) or (entry.get("rows"), entry.get("columns")) != (outputs, columns):
            raise BundleError(f"{self.path} has no matrix {name} of {outputs} x {columns}; export the bundle again")
        precision = entry.get("precision")
        if not isinstance(precision, str) or precision not in _DTYPES:
            raise BundleError(f"{self.path} has the matrix {name} in a precision that this release does not read")
        stored, dtype = _DTYPES[precision]
        per_word = _WORD_BYTES // np.dtype(dtype).itemsize
        shape = (-(-outputs // PANEL), -(-columns // per_word), PANEL, per_word)
        panels = self._read(f"{name}.weight", stored, shape, dtype)
        self._on_matrix()
        return panels

    def _read(self, name: str, stored: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        tensor: StoredTensor | None = self._tensors.get(name)
        if tensor is None or (tensor.dtype, tensor.shape) != (stored, shape):
            raise BundleError(f"{self.path} has no tensor {name} of the shape {shape}; export the bundle again")
        values: NDArray[Any] = np.empty(prod(shape), np.dtype(dtype).newbyteorder("<"))
        with open_regular(self.path, BundleError) as stream:
            stream.seek(tensor.offset)
            if stream.readinto(values.data.cast("B")) != tensor.size:  # type: ignore[attr-defined]
                raise BundleError(f"{self.path} ended while it was read")
        return values.reshape(shape)

    def _json(self, metadata: dict[str, str], key: str) -> dict[str, Any]:
        return json_object(
            parse_json(metadata.get(key, ""), f"{self.path}: {key}", BundleError), self.path, BundleError
        )
