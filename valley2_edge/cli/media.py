"""Which words of a command line, or of a conversation's line, are pictures, which a video, and which the question."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from valley2_edge.cli.streams import read_stdin
from valley2_edge.errors import InputError
from valley2_edge.picture_limits import DEFAULT_MAX_PICTURE_PIXELS
from valley2_edge.runtime.media.media_kind import URL_SENTENCE, ends_like_file, is_address, looks_like_file
from valley2_edge.runtime.media.source_file import kind_of_file, open_source

STDIN = "-"
_PATH_BEGINNINGS = ("/", "./", "../", "~", "file:")
_WORD = re.compile(r""""[^"]*"|'[^']*'|\S+""" if os.name == "nt" else r""""(?:\\.|[^"\\])*"|'[^']*'|(?:\\.|[^\s\\])+""")
_PUNCTUATION = "\"'`.,;:!?()[]<>\u2018\u2019\u201c\u201d\u00ab\u00bb"


@dataclass(frozen=True)
class Media:
    """What a question is about."""

    pictures: list[Path | bytes] = field(default_factory=list)
    """Files, or the bytes that stdin held."""
    video: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.pictures) or self.video is not None

    @property
    def files(self) -> list[Path]:
        """The pictures and the video that are files."""
        return [file for file in (*self.pictures, self.video) if isinstance(file, Path)]

    def joined(self, other: Media) -> Media:
        """The pictures and the video of both.

        Raises:
            InputError: Several videos, or a video beside pictures.
        """
        if self.video is not None and other.video is not None:
            raise InputError("one question can be about one video, not 2")
        media = Media([*self.pictures, *other.pictures], self.video or other.video)
        if media.video is not None and media.pictures:
            raise InputError("one question can be about pictures or about a video, not about both")
        return media

    def check(self, max_pixels: int = DEFAULT_MAX_PICTURE_PIXELS) -> list[str]:
        """Looks into every file's beginning, before anything large is loaded or the file is relied upon.

        Args:
            max_pixels: Width times height of a picture at most.

        Returns:
            A line about each, as "picture 1: photo.jpg, 1280 x 720".

        Raises:
            InputError: A file is missing, no regular one, or not what it should be.
        """
        for file in self.files:
            if not file.exists():
                raise InputError(f"there is no picture or video at {file}")
        if self.video is not None:
            return [f"video: {self.video}{look_at_video(self.video, max_pixels)}"]
        names = [str(picture) if isinstance(picture, Path) else "from stdin" for picture in self.pictures]
        sizes = [look_at_picture(picture, max_pixels) for picture in self.pictures]
        return [
            f"picture {number}: {name}, {width} x {height}"
            for number, (name, (width, height)) in enumerate(zip(names, sizes, strict=True), 1)
        ]

    def readable(self, max_pixels: int) -> Media:
        """Those of the pictures and videos that can be read to their end."""
        from valley2_edge.runtime.media.images import load_picture

        pictures = []
        for picture in self.pictures:
            try:
                load_picture(picture, max_pixels=max_pixels)
            except InputError:
                continue
            pictures.append(picture)
        video = self.video
        if video is not None:
            from valley2_edge.runtime.media.video import load_frames

            try:
                load_frames(video, 1, max_pixels=max_pixels)
            except InputError:
                video = None
        return Media(pictures, video)


def look_at_picture(picture: Path | bytes, max_pixels: int) -> tuple[int, int]:
    """The width and height that a picture's header claims, turned upright.

    Raises:
        InputError: It is missing or no picture.
    """
    from valley2_edge.runtime.media.images import picture_size

    name = "the picture on stdin" if isinstance(picture, bytes) else str(picture)
    return picture_size(picture, name=name, max_pixels=max_pixels)


def look_at_video(video: Path, max_pixels: int) -> str:
    """What can be said at once about a video, or about an animated picture that shall be one.

    Raises:
        InputError: It is missing, or neither.
    """
    open_source(video, "video").close()
    if kind_of_file(video) == "video":
        return ""
    width, height = look_at_picture(video, max_pixels)
    return f", {width} x {height}"


def split_words(words: Sequence[str]) -> tuple[Media, str | None]:
    """Splits the words of a command line: pictures or one video first, the question last.

    A word is a file when there is one of that name, and when it looks like one, so that a mistyped name is an error and
    not a question. A lone - is what stdin holds: a picture, or else the question.

    Returns:
        The files, not yet looked at, and the question or None.

    Raises:
        InputError: There are words after the question, several videos, a video beside pictures, an address of the
            network, or stdin holds what cannot be used.
    """
    count = next((index for index, word in enumerate(words) if not (word == STDIN or _means_file(word))), len(words))
    files, rest = list(words[:count]), words[count:]
    if len(rest) > 1:
        raise InputError(
            f"{rest[0]!r} is neither an existing file nor the last word; give the files first and the question last, "
            "in quotes"
        )
    question = rest[0] if rest else None
    if STDIN not in files:
        return sort_media([path_of(word) for word in files]), question
    if files.count(STDIN) > 1:
        raise InputError("- names stdin, which can be read only once")
    content = read_stdin()
    if isinstance(content, bytes):
        if question is None:
            raise InputError('stdin holds a picture: write the question behind it, for example - "What is this?"')
        return sort_media([content if word == STDIN else path_of(word) for word in files]), question
    if question is not None or files[-1] != STDIN:
        raise InputError("stdin holds text, which is the question: write - once, as the last word")
    return sort_media([path_of(word) for word in files[:-1]]), content


def sort_media(files: Sequence[Path | bytes]) -> Media:
    """Separates pictures from a video; an animated picture counts as a picture here.

    Raises:
        InputError: Several videos, or a video beside pictures.
    """
    videos = [file for file in files if isinstance(file, Path) and kind_of_file(file) == "video"]
    if len(videos) > 1:
        raise InputError(f"one question can be about one video, not {len(videos)}")
    pictures = [file for file in files if file not in videos]
    return Media(pictures).joined(Media(video=videos[0] if videos else None))


def path_of(word: str) -> Path:
    """The file that a word means: of that very name, or else with ~, variables and file:// read as a shell would.

    Raises:
        InputError: It is an address of the network.
    """
    if _exists(word):
        return Path(word)
    if word.lower().startswith("file:"):
        address = urlsplit(word)
        if address.netloc in ("", "localhost"):
            from urllib.request import url2pathname  # brings HTTP with it, which a help page need not wait for

            return Path(url2pathname(address.path))
    if is_address(word):
        raise InputError(f"{word}: {URL_SENTENCE}")
    return Path(os.path.expandvars(os.path.expanduser(word)))  # noqa: PTH111  (an unknown user stays as it is)


def words_of_paths(text: str) -> list[Path]:
    """The paths in what was typed after /image: one with spaces as it is, else several, quotes and escapes removed.

    Raises:
        InputError: One is an address of the network.
    """
    if not text:
        return []
    whole = path_of(text)
    if whole.exists():
        return [whole]
    return [path_of(_unquoted(word)) for word in _WORD.findall(text)]


def split_line(line: str) -> tuple[list[Path], str]:
    """Splits a conversation's line: it may begin with files, as terminals write them when they are dropped there.

    Returns:
        The files, not yet looked at, and the rest.

    Raises:
        InputError: It begins with the name of a file that is not there, or with an address of the network.
    """
    if ends_like_file(line) and _exists(line):
        return [Path(line)], ""
    files: list[Path] = []
    place = 0
    for match in _WORD.finditer(line):
        word = _unquoted(match.group())
        begins_like_path = word.lower().startswith(_PATH_BEGINNINGS)
        if not (begins_like_path or looks_like_file(word) or (word != match.group() and _exists(word))):
            break
        path = path_of(word)
        if not path.exists():
            if not (begins_like_path or ends_like_file(word)):
                break
            raise InputError(f"there is no picture or video at {path}")
        files.append(path)
        place = match.end()
    return files, line[place:].strip()


def mentioned_files(question: str) -> Iterator[str]:
    """The words of a question that name files, which the model does not see."""
    for match in _WORD.finditer(question):
        whole = _unquoted(match.group())
        for word in [whole] if _exists(whole) else match.group().split():
            name = word.strip(_PUNCTUATION)
            if ends_like_file(name) or (os.sep in name and _exists(name)):
                yield name


def _unquoted(word: str) -> str:
    try:
        return "".join(shlex.split(word, posix=os.name != "nt")).strip('"' if os.name == "nt" else "")
    except ValueError:
        return word  # a lone quote belongs to the name


def _means_file(word: str) -> bool:
    return looks_like_file(word) or _exists(word)


def _exists(word: str) -> bool:
    try:
        return bool(word) and Path(word).exists()
    except (OSError, ValueError):
        return False  # a long question is no acceptable file name
