"""Text of strangers as a terminal may show it: what would steer the terminal is spelled out."""

from __future__ import annotations

import re

# Control characters but for tab and line feed, marks that turn the direction of the text around them, and lone
# surrogates, which stand for bytes of a file's name that are not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FIRST_UNDECODED_BYTE = 0xDC80


def printable(text: str) -> str:
    r"""The text as a terminal may show it: what would steer the terminal is spelled out, as \x1b for the escape.

    Names of files, notes of saved sessions, manifests and answers come from strangers. Letters of every script stay,
    and so do the marks that join or separate them.
    """
    return _UNPRINTABLE.sub(_spelled, text.replace("\r\n", "\n"))


def _spelled(match: re.Match[str]) -> str:
    code = ord(match.group())
    if _FIRST_UNDECODED_BYTE <= code <= _FIRST_UNDECODED_BYTE + 0x7F:
        code -= _FIRST_UNDECODED_BYTE - 0x80
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
