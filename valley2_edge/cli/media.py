"""Which words of `valley2-edge chat` are pictures, which a video, and which is the question."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from valley2_edge.errors import InputError
from valley2_edge.runtime.media_kind import looks_like_file
from valley2_edge.runtime.video import is_video


@dataclass(frozen=True)
class Media:
    """What a question is about."""

    pictures: list[Path] = field(default_factory=list)
    video: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return self.pictures if self.video is None else [self.video]

    def joined(self, other: Media) -> Media:
        """Both together.

        Raises:
            InputError: Several videos, or a video beside pictures.
        """
        if self.video is not None and other.video is not None:
            raise InputError("one question can be about one video, not 2")
        media = Media([*self.pictures, *other.pictures], self.video or other.video)
        if media.video is not None and media.pictures:
            raise InputError("one question can be about pictures or about a video, not about both")
        return media

    def check_presence(self) -> None:
        """Fails for a mistyped name, before anything large is loaded.

        Raises:
            InputError: A file is not there.
        """
        for file in self.files:
            if not file.exists():
                raise InputError(f"there is no picture or video at {file}")


def split_words(words: Sequence[str]) -> tuple[Media, str | None]:
    """Splits the words of a command line: pictures or one video first, the question last.

    A word is a file when such a file exists or when it ends like a picture or a video, so that a mistyped name is an
    error and not a question.

    Returns:
        The files, and the question or None.

    Raises:
        InputError: There are words after the question, several videos, or a video beside pictures.
    """
    count = next((index for index, word in enumerate(words) if not _is_file(word)), len(words))
    rest = words[count:]
    if len(rest) > 1:
        what = "a directory" if Path(rest[0]).is_dir() else "neither an existing file nor the last word"
        raise InputError(f"{rest[0]!r} is {what}; give the files first and the question last, in quotes")
    return sort_media([Path(word) for word in words[:count]]), rest[0] if rest else None


def sort_media(files: Sequence[Path]) -> Media:
    """Separates pictures from a video; an animated picture counts as a picture here.

    Raises:
        InputError: Several videos, or a video beside pictures.
    """
    videos = [file for file in files if is_video(file)]
    pictures = [file for file in files if not is_video(file)]
    if len(videos) > 1:
        raise InputError(f"one question can be about one video, not {len(videos)}")
    return Media(pictures).joined(Media(video=videos[0] if videos else None))


def words_of_paths(text: str) -> list[Path]:
    """The paths in what was typed after /image: one with spaces as it is, else several, quotes removed."""
    if not text or Path(text).is_file():
        return [Path(text)] if text else []
    try:
        return [Path(word) for word in shlex.split(text)]
    except ValueError:
        return [Path(text)]  # a lone quote


def _is_file(word: str) -> bool:
    if looks_like_file(word):
        return True
    try:
        return Path(word).is_file()
    except (OSError, ValueError):
        return False  # a long question is no acceptable file name
