"""Reads a calibration file as dialogues that a bundle is measured on, without torch."""

from __future__ import annotations

from pathlib import Path

from valley2_edge.calibration.jsonl import read_calibration_file
from valley2_edge.errors import InputError
from valley2_edge.eval.passages import Dialogue


def read_dialogues(path: Path, limit: int | None = None) -> tuple[list[Dialogue], tuple[str, ...]]:
    """Reads the prompts and answers of a calibration file.

    Args:
        path: The file (docs/quantization.md, "Calibration sets").
        limit: Most lines, which are spread evenly over the file; None takes all.

    Returns:
        The dialogues, and a sentence about each line that was left out because it is broken.

    Raises:
        InputError: The limit is below 1, the file is missing or has no line, or more than 5 % of its lines are broken.
    """
    if limit is not None and limit < 1:
        raise InputError(f"At least 1 line must be measured, not {limit}.")
    found = read_calibration_file(path, limit)
    dialogues = [
        Dialogue(sample.name, turn.prompt, turn.answer, sample.images, sample.video)
        for sample in found.samples
        for turn in sample.turns
    ]
    return dialogues, found.broken
