"""Reads the decoder of a bundle back as it is stored: integers, scales and zero points."""

from __future__ import annotations

import torch
from safetensors import safe_open

from valley2_edge.export.decoder.layout import EMBEDDINGS_TENSOR
from valley2_edge.export.decoder.stored_reference import StoredDecoder
from valley2_edge.quantize.packing import PANEL, panel_count, unpack_floats, unpack_groups, unpack_int4, unpack_int8
from valley2_edge.quantize.rtn import QuantizedRows


class BundleDecoder(StoredDecoder):
    """The decoder of a bundle; every read opens the file anew, so that no mapping of it stays in memory."""

    def quantized_rows(self, name: str, first: int = 0, last: int | None = None) -> QuantizedRows:
        """Rows first..last of an int4 or int8 matrix; None: all rows.

        Returns:
            Values, scales and, where they are stored, zero points.
        """
        matrix_format = self.format(name)
        unpack = unpack_int4 if matrix_format.precision == "int4" else unpack_int8
        return QuantizedRows(
            unpack(*self._panels(name, "weight", first, last))[self._within(first, last)],
            self.groups(name, "scales", first, last),
            self.groups(name, "zeros", first, last) if matrix_format.has_zeros else None,
        )

    def groups(self, name: str, part: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Scales or zero points of rows first..last: (rows, groups)."""
        return unpack_groups(*self._panels(name, part, first, last))[self._within(first, last)]

    def floats(self, name: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Rows first..last of an fp16 or fp32 matrix in its stored dtype."""
        return unpack_floats(*self._panels(name, "weight", first, last))[self._within(first, last)].contiguous()

    def embeddings_dtype(self) -> torch.dtype:
        """Type of the embedding table."""
        return self.embedding_rows(0, 1).dtype

    def embedding_rows(self, first: int, last: int) -> torch.Tensor:
        """Rows first..last of the embedding table in its stored dtype."""
        with safe_open(self._embeddings, "pt") as reader:
            rows: torch.Tensor = reader.get_slice(EMBEDDINGS_TENSOR)[first:last]
            return rows.clone()

    def _panels(self, name: str, part: str, first: int, last: int | None) -> tuple[torch.Tensor, int]:
        """The panels that hold some rows, and the rows of the matrix that these panels hold."""
        total = self.rows(name)
        start, stop = first // PANEL, panel_count(total if last is None else last)
        with safe_open(self._path, "pt") as reader:
            panels: torch.Tensor = reader.get_slice(f"{name}.{part}")[start:stop]
            return panels.clone(), min(total, stop * PANEL) - start * PANEL

    def _within(self, first: int, last: int | None) -> slice:
        """Where rows first..last lie in what _panels covers."""
        offset = first % PANEL
        return slice(offset, None if last is None else offset + last - first)
