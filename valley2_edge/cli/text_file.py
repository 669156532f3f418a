"""The file that `valley2-edge eval text` measures: a plain text, or prompts with answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from valley2_edge.errors import InputError
from valley2_edge.eval.passages import WINDOW_TOKENS, Dialogue, Passage, read_plain_text, windows_of
from valley2_edge.runtime.core.tokenizer import Tokenizer

_DIALOGUES = ".jsonl"


@dataclass(frozen=True)
class TextFile:
    """What the file holds, before a tokenizer has seen it."""

    stage: str
    """What is counted while it is measured: windows or answers."""
    text: str = ""
    dialogues: Sequence[Dialogue] = ()
    left_out: Sequence[str] = ()
    """A sentence about each line that is broken."""
    window: int | None = None
    """Tokens of a window of a plain text."""
    limit: int | None = None
    """Most windows."""

    def passages(self, tokenizer: Tokenizer) -> Sequence[Passage]:
        """What is to be predicted.

        Raises:
            InputError: A plain text is too short.
        """
        if self.window is None:
            return self.dialogues
        return windows_of(self.text, tokenizer, self.window, self.limit)


def read_text_file(path: Path, window: int | None, limit: int | None) -> TextFile:
    """Reads the file; its name says whether it holds dialogues.

    Args:
        path: The file.
        window: Tokens of a window of a plain text; None is the default.
        limit: Most windows or lines; None takes all.

    Raises:
        InputError: The file is unusable, or a window was asked for where there are answers.
    """
    if path.suffix.lower() != _DIALOGUES:
        return TextFile("windows", read_plain_text(path), window=window or WINDOW_TOKENS, limit=limit)
    from valley2_edge.calibration.dialogues import read_dialogues

    if window is not None:
        raise InputError(f"--window cuts a plain text; the answers of a {_DIALOGUES} file are measured whole")
    dialogues, left_out = read_dialogues(path, limit)
    return TextFile("answers", dialogues=dialogues, left_out=left_out)
