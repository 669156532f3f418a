"""What a saved session knows beside the decoder's part: its options, and the conversation as text."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from valley2_edge.errors import InputError
from valley2_edge.outside_files import parse_json
from valley2_edge.picture_limits import DEFAULT_MAX_PICTURE_PIXELS
from valley2_edge.policy import EaglePreset, Policy, PolicyName


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Turn(_Strict):
    """One question and its answer, as far as it came."""

    question: str
    pictures: int = Field(0, ge=0, le=2**24)
    """Frames of a video included."""
    answer: str = ""


class SessionOptions(_Strict):
    """The options of `Valley2.session`, by their names."""

    system: str | None
    policy: PolicyName
    strict: bool
    think: bool
    context_length: int = Field(ge=0, le=2**24)
    kv_precision: Literal["auto", "fp32", "fp16", "int8"]
    prefill_chunk: int = Field(ge=0, le=2**16)
    eagle: bool
    tiles: bool
    eagle_preset: EaglePreset
    eagle_max_tokens: int | None
    eagle_min_tokens: int | None
    max_picture_pixels: int = DEFAULT_MAX_PICTURE_PIXELS

    def picture_policy(self) -> Policy:
        """The choices about pictures.

        Raises:
            InputError: One is out of range.
        """
        return Policy(
            self.policy,
            self.strict,
            self.eagle,
            self.tiles,
            self.eagle_preset,
            self.eagle_max_tokens,
            self.eagle_min_tokens,
            self.max_picture_pixels,
        )


class SavedConversation(_Strict):
    """The note that goes with the decoder's part in the file."""

    version: Literal[1] = 1
    options: SessionOptions
    turns: tuple[Turn, ...]

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
            raise InputError(
                f"{path} was not saved by this release of valley2-edge: {field} is not understood."
            ) from error
