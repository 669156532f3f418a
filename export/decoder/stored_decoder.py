"""Reads the decoder of a bundle back: as it is stored (integers, scales, zero points), and as the weights it means."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from valley2_edge.config import DecoderConfig
from valley2_edge.errors import BundleError
from valley2_edge.export.decoder.layout import DECODER_FILE, EMBEDDINGS_FILE, EMBEDDINGS_TENSOR
from valley2_edge.outside_files import parse_json
from valley2_edge.quantize.matrix_format import DEFAULT_GROUP_SIZE, MatrixFormat
from valley2_edge.quantize.packing import PANEL, panel_count, unpack_floats, unpack_groups, unpack_int4, unpack_int8
from valley2_edge.quantize.rtn import QuantizedRows, dequantize_rows


class StoredDecoder:
    """The decoder of a bundle; every read opens the file anew, so that no mapping of it stays in memory.

    Args:
        directory: The bundle, finished or being made.

    Raises:
        BundleError: The decoder's file is missing or does not describe a decoder.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / DECODER_FILE
        self._embeddings = directory / EMBEDDINGS_FILE
        try:
            with safe_open(self._path, "pt") as reader:
                metadata = reader.metadata() or {}
            texts = metadata["matrices"], metadata["config"]
            self._matrices, config = (parse_json(text, str(self._path), BundleError) for text in texts)
            config.pop("head_size")
            self.config = DecoderConfig(**config)
        except (OSError, SafetensorError, KeyError, AttributeError, TypeError, ValidationError) as error:
            raise BundleError(f"{self._path} does not describe a decoder: export the bundle again") from error

    def tensor(self, name: str) -> torch.Tensor:
        """Reads a norm or a bias.

        Args:
            name: The tensor's name in the file.

        Returns:
            (width,) float32.
        """
        with safe_open(self._path, "pt") as reader:
            tensor: torch.Tensor = reader.get_tensor(name)
            return tensor.clone()

    def rows(self, name: str) -> int:
        """Number of rows of a matrix, without padding."""
        return int(self._matrices[name]["rows"])

    def format(self, name: str) -> MatrixFormat:
        """The format in which a matrix is stored."""
        facts = self._matrices[name]
        code = facts.get("code", "uniform")
        return MatrixFormat(facts["precision"], facts["group_size"] or DEFAULT_GROUP_SIZE, facts["symmetric"], code)

    def matrix(self, name: str, first_panel: int = 0, last_panel: int | None = None) -> torch.Tensor:
        """Reads the weights that a stored matrix stands for.

        Args:
            name: The matrix.
            first_panel: The first panel of 64 rows.
            last_panel: The panel behind the last one; None means all panels.

        Returns:
            (rows, columns) float32.
        """
        facts = self._matrices[name]
        panel_total = panel_count(facts["rows"])
        last_panel = panel_total if last_panel is None else min(last_panel, panel_total)
        rows = min(facts["rows"], last_panel * PANEL) - first_panel * PANEL
        with safe_open(self._path, "pt") as reader:

            def read(part: str) -> torch.Tensor:
                panels: torch.Tensor = reader.get_slice(f"{name}.{part}")[first_panel:last_panel]
                return panels

            weight = read("weight")
            if facts["precision"] in ("fp32", "fp16"):
                return unpack_floats(weight, rows).to(torch.float32).contiguous()
            matrix_format = self.format(name)
            unpack = unpack_int4 if facts["precision"] == "int4" else unpack_int8
            zeros = unpack_groups(read("zeros"), rows) if matrix_format.has_zeros else None
            stored = QuantizedRows(unpack(weight, rows), unpack_groups(read("scales"), rows), zeros)
            return dequantize_rows(stored, matrix_format)

    def embed(self, tokens: list[int]) -> torch.Tensor:
        """Reads the embeddings of some tokens.

        Args:
            tokens: Token ids, at least one.

        Returns:
            (tokens, hidden_size) float32.
        """
        with safe_open(self._embeddings, "pt") as reader:
            table = reader.get_slice(EMBEDDINGS_TENSOR)
            return torch.cat([table[token : token + 1] for token in tokens]).to(torch.float32)

    def quantized_rows(self, name: str, first: int = 0, last: int | None = None) -> QuantizedRows:
        """Reads rows of an int4 or int8 matrix as they are stored.

        Args:
            name: The matrix.
            first: The first row.
            last: The row behind the last one; None means all rows.

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
        """Reads scales or zero points of an int4 or int8 matrix.

        Args:
            name: The matrix.
            part: "scales" or "zeros".
            first: The first row.
            last: The row behind the last one; None means all rows.

        Returns:
            (rows, groups): float16 scales or uint8 zero points.
        """
        return unpack_groups(*self._panels(name, part, first, last))[self._within(first, last)]

    def floats(self, name: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Reads rows of an fp16 or fp32 matrix in its stored dtype.

        Args:
            name: The matrix.
            first: The first row.
            last: The row behind the last one; None means all rows.

        Returns:
            (rows, columns).
        """
        return unpack_floats(*self._panels(name, "weight", first, last))[self._within(first, last)].contiguous()

    def embeddings_dtype(self) -> torch.dtype:
        """The dtype of the embedding table."""
        return self.embedding_rows(0, 1).dtype

    def embedding_rows(self, first: int, last: int) -> torch.Tensor:
        """Reads the rows from `first` up to `last` of the embedding table in its stored dtype."""
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
        """Where the rows from `first` up to `last` lie among those that `_panels` returned."""
        offset = first % PANEL
        return slice(offset, None if last is None else offset + last - first)
