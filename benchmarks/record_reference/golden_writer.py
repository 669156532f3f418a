"""Writes what the reference computed in the layout of docs/golden.md."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from questions import ReferenceQuestion
from reference_run import ReferenceRun
from safetensors.numpy import save_file

from valley2_edge.runtime.core.prompt import PICTURE_ID, PICTURE_TEXT
from valley2_edge.verify.golden import EAGLE_MEAN, EAGLE_STD, TILE_SCALE

Array = npt.NDArray[Any]

_CONFIGURATION = ("config.json", "vision_geometry.json")
_DIGITS = 5


class GoldenWriter:
    """Writes cases one after the other; the directory appears with `finish`.

    Args:
        directory: Does not exist yet.
        variant: What the recorded model is called.
        decode: Turns token ids into text, control tokens included.
    """

    def __init__(self, directory: Path, variant: str, decode: Any) -> None:
        self._target = directory
        self._directory = directory.with_name(f"{directory.name}.unfinished")
        shutil.rmtree(self._directory, ignore_errors=True)
        self._variant = variant
        self._decode = decode
        self._records: dict[str, Any] = {}
        for folder in ("inputs", "pre_hf", f"fwd/{variant}", f"ckpt/{variant}"):
            (self._directory / folder).mkdir(parents=True)

    def copy_configuration(self, checkpoint: Path) -> None:
        """Keeps the architecture that the outputs belong to."""
        for name in _CONFIGURATION:
            if (checkpoint / name).exists():
                (self._directory / "ckpt" / self._variant / name).write_bytes((checkpoint / name).read_bytes())

    def add(self, question: ReferenceQuestion, run: ReferenceRun) -> None:
        """Writes one case."""
        name, inputs = question.name, self._directory / "inputs"
        pictures: dict[str, Any] = {f"image{index}": picture for index, picture in enumerate(question.pictures)}
        np.savez_compressed(inputs / f"{name}.npz", **pictures)
        (inputs / f"{name}.json").write_text(json.dumps({"chat_history": question.history}, indent=1) + "\n", "utf-8")
        save_file(_preprocessing(run), self._directory / "pre_hf" / f"{name}.safetensors")
        forward = {"input_ids": run.input_ids, "scores": run.scores, "greedy_tokens": run.tokens, **run.stages}
        contiguous = {key: np.ascontiguousarray(value) for key, value in forward.items()}
        save_file(contiguous, self._directory / "fwd" / self._variant / f"{name}.safetensors")
        self._records[name] = self._record(run)

    def finish(self, about: dict[str, Any]) -> None:
        """Writes the manifest and gives the directory its name.

        Args:
            about: Versions and settings of the recording.
        """
        manifest = {"recorded": about, "cases": {self._variant: self._records}}
        (self._directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
        self._directory.rename(self._target)

    def _record(self, run: ReferenceRun) -> dict[str, Any]:
        best = np.partition(run.scores, -2, axis=-1)[:, -2:]  # (tokens, 2)
        hashes = {"tiles_f32": _sha256(run.tiles)}
        record = {
            "prompt_text": self._text(run.input_ids),
            "generated_text": self._decode(run.tokens.tolist()),
            "image_sizes_wh": run.image_sizes,
            "tiles_per_image": run.tiles_per_image,
            "prefill_len": len(run.stages["inputs_embeds"]),
            "greedy_tokens": run.tokens.tolist(),
            "greedy_margins": [round(float(margin), _DIGITS) for margin in best[:, 1] - best[:, 0]],
            "pre_sha256": hashes,
        }
        if run.patches is not None and run.grids is not None:
            record["eagle_grid_thw"] = run.grids.tolist()
            hashes["pixel_values_f32"] = _sha256(run.patches)
        return record

    def _text(self, ids: Array) -> str:
        """The prompt as text, with a word in each picture's place."""
        places = np.flatnonzero(ids == PICTURE_ID)
        pieces = [piece[piece != PICTURE_ID] for piece in np.split(ids, places)]
        return PICTURE_TEXT.join(self._decode(piece.tolist()) for piece in pieces)


def _preprocessing(run: ReferenceRun) -> dict[str, Array]:
    """Pixels as bytes, from which the floats of the released processors follow bit for bit; the manifest has hashes."""
    arrays: dict[str, Array] = {
        "tiles_u8": _bytes((run.tiles * 0.5 + 0.5) / np.float32(TILE_SCALE)),
        "tiles_per_image": np.array(run.tiles_per_image, np.int32),
    }
    if run.patches is not None and run.grids is not None:
        side = round((run.patches.shape[1] / 6) ** 0.5)
        first_slice = run.patches.reshape(len(run.patches), 3, 2, side, side)[:, :, 0]  # (patches, 3, 14, 14)
        mean, deviation = EAGLE_MEAN[:, None, None], EAGLE_STD[:, None, None]
        arrays["eagle_patches_u8"] = _bytes((first_slice * deviation + mean) * 255)
        arrays["eagle_grid_thw"] = run.grids
    return arrays


def _bytes(values: Array) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(np.rint(values).clip(0, 255).astype(np.uint8))


def _sha256(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
