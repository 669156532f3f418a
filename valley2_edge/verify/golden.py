"""Reads a directory of reference outputs (docs/golden.md): which cases a variant has and what the reference computed.

Nothing here knows the names of cases or variants: they are what `manifest.json` and `fwd/<variant>/` hold.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from valley2_edge.errors import InputError
from valley2_edge.outside_files import is_directory, parse_json, read_bytes, read_text
from valley2_edge.outside_tensors import MAX_TENSORS_BYTES, load_tensors
from valley2_edge.runtime.core.prompt import Message, Role

Array = npt.NDArray[Any]

TILE_SCALE = 0.00392156862745098
EAGLE_MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
EAGLE_STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


_MAX_JSON_BYTES = 64 << 20
_MAX_VALUES = 2_000_000
_MAX_PICTURES_BYTES = 1 << 30


@dataclass(frozen=True)
class GoldenCase:
    """What went into the reference in one case and what came out."""

    name: str
    pictures: list[npt.NDArray[np.uint8]]
    """Pictures in RGB, each (height, width, 3) uint8."""
    history: list[Message] | None
    """None: the prompt's text was given as it is, without a picture."""
    record: Mapping[str, Any]
    """The case's entry in manifest.json."""
    preprocessing: Mapping[str, Array]
    forward: Mapping[str, Array]


class Golden:
    """A directory of reference outputs."""

    def __init__(self, directory: Path) -> None:
        """Reads the manifest.

        Raises:
            InputError: `directory` holds no reference outputs.
        """
        self.directory = directory
        if not is_directory(directory):
            raise InputError(f"{directory} is not a directory of reference outputs")
        content = _read_json(directory / "manifest.json")
        records = content.get("cases") if isinstance(content, dict) else None
        if not isinstance(records, dict) or not all(isinstance(cases, dict) for cases in records.values()):
            raise InputError(f'{directory / "manifest.json"} has no "cases"')
        self._records: dict[str, dict[str, Any]] = records

    def case_names(self, variant: str) -> list[str]:
        """The names of the cases of a variant, sorted.

        Raises:
            InputError: There are none.
        """
        folder = self.directory / "fwd" / variant
        names = sorted(path.stem for path in folder.glob("*.safetensors")) if _is_plain_name(variant) else []
        if not names:
            known = ", ".join(sorted(path.name for path in (self.directory / "fwd").glob("*") if path.is_dir()))
            raise InputError(
                f"{self.directory} has no variant {variant!r}, only {known or 'none'}; name one with --variant"
            )
        return names

    def case(self, variant: str, name: str, policy: str) -> GoldenCase:
        """Reads one case.

        Args:
            variant: Name of a folder under fwd/.
            name: One of the names of `case_names`.
            policy: "hub" or "repo": whose preprocessing to expect.

        Raises:
            InputError: A file is missing or broken.
        """
        record = self._records.get(variant, {}).get(name)
        if not isinstance(record, dict):
            raise InputError(f"{self.directory / 'manifest.json'} does not describe case {name} of {variant}")
        description = self.directory / "inputs" / f"{name}.json"
        history: list[Message] | None = None
        pictures: list[npt.NDArray[np.uint8]] = []
        if description.exists():
            history = _read_history(description)
            pictures = self._read_pictures(name)
        forward = _read_tensors(self.directory / "fwd" / variant / f"{name}.safetensors")
        return GoldenCase(name, pictures, history, record, self._read_preprocessing(name, policy), forward)

    def geometry(self) -> list[dict[str, Any]]:
        """Rows of geometry.json; none when there is no such file."""
        path = self.directory / "geometry.json"
        rows = _read_json(path) if path.exists() else []
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{path} is no list of sizes")
        return rows

    def checkpoint(self, variant: str) -> Path | None:
        """The folder with a variant's config.json, if it has one of its own."""
        folder = self.directory / "ckpt" / variant
        return folder if (folder / "config.json").exists() else None

    def _read_pictures(self, name: str) -> list[npt.NDArray[np.uint8]]:
        path = self.directory / "inputs" / f"{name}.npz"
        content = io.BytesIO(read_bytes(path, _MAX_PICTURES_BYTES, InputError))
        try:
            with np.load(content, allow_pickle=False) as archive:
                pictures = [archive[f"image{index}"] for index in range(len(archive.files))]
        # numpy and zipfile raise many kinds of errors for a damaged archive.
        except Exception as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        if any(picture.dtype != np.uint8 or picture.shape[2:] != (3,) for picture in pictures):
            raise InputError(f"{path} holds something else than pictures of (height, width, 3) bytes")
        return pictures

    def _read_preprocessing(self, name: str, policy: str) -> dict[str, Array]:
        """Arrays of pre/ or, for hub, those of pre_hf/ over those that equal pre/'s and are left out."""
        tensors: dict[str, Array] = {}
        for folder in ("pre", "pre_hf") if policy == "hub" else ("pre",):
            path = self.directory / folder / f"{name}.safetensors"
            if path.exists():
                tensors.update(_read_tensors(path))
        return tensors


def tiles_from_bytes(tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The reference's SigLIP input, bit for bit.

    Args:
        tiles: (T, 3, S, S), 0 to 255.

    Returns:
        (T, 3, S, S) in [-1, 1].
    """
    half = np.float32(0.5)
    scaled: npt.NDArray[np.float32] = (tiles * TILE_SCALE).astype(np.float32)
    return (scaled - half) / half


def patches_from_bytes(patches: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The reference's Eagle input without its second, equal temporal slice, bit for bit.

    Args:
        patches: (P, 3, 14, 14), 0 to 255.

    Returns:
        (P, 588), normalised.
    """
    scaled = (patches * (1 / 255)).astype(np.float32)
    mean, std = EAGLE_MEAN[:, None, None], EAGLE_STD[:, None, None]
    normalised: npt.NDArray[np.float32] = (scaled - mean) / std
    return normalised.reshape(len(patches), -1)


def _is_plain_name(name: str) -> bool:
    return bool(name) and name not in (".", "..") and not any(mark in name for mark in "/\\:")


def _read_json(path: Path) -> Any:
    text = read_text(path, _MAX_JSON_BYTES, InputError)
    return parse_json(text, str(path), InputError, max_values=_MAX_VALUES)


def _read_history(path: Path) -> list[Message]:
    content = _read_json(path)
    turns = content.get("chat_history") if isinstance(content, dict) else None
    try:
        messages = [Message(turn["role"], turn["content"]) for turn in turns or []]
    except (KeyError, TypeError):
        messages = []
    if not messages or any(
        message.role not in get_args(Role) or not isinstance(message.content, str) for message in messages
    ):
        raise InputError(f'{path} has no "chat_history" of turns with role and content')
    return messages


def _read_tensors(path: Path) -> dict[str, Array]:
    return load_tensors(read_bytes(path, MAX_TENSORS_BYTES, InputError), path, InputError)
