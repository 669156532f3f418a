"""What a saved session knows beside the decoder's part: its options, and the conversation as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from valley2_edge.errors import InputError, OptionError
from valley2_edge.options import SessionOptions, changed
from valley2_edge.outside_files import parse_json


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Turn(_Strict):
    """One question and its answer, as far as it came."""

    question: str
    pictures: int = Field(0, ge=0, le=2**24)
    """Frames of a video included."""
    answer: str = ""


class SavedConversation(_Strict):
    """The note that goes with the decoder's part in the file."""

    version: Literal[1] = 1
    options: dict[str, Any]
    """The fields of `SessionOptions`."""
    turns: tuple[Turn, ...]

    @classmethod
    def made_of(cls, options: SessionOptions, turns: Sequence[Turn]) -> SavedConversation:
        """The note of a session."""
        return cls(options=asdict(options), turns=tuple(turns))

    def session_options(self, path: Any) -> SessionOptions:
        """The options that the session had.

        Raises:
            InputError: They are none of this release's.
        """
        try:
            return changed(SessionOptions(), self.options)
        except InputError as error:
            field = f"options.{error.name}" if isinstance(error, OptionError) else "options"
            raise _foreign(path, field) from error

    @classmethod
    def parse(cls, note: str, path: Any) -> SavedConversation:
        """Reads a note.

        Raises:
            InputError: It is none of this release's.
        """
        data = parse_json(note, f"the note of {path}", InputError)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            field = ".".join(str(part)[:40] for part in error.errors()[0]["loc"]) or "the note"
            raise _foreign(path, field) from error


def _foreign(path: Any, field: str) -> InputError:
    return InputError(f"{path} was not saved by this release of valley2-edge: {field} is not understood.")
