"""What a failure is to the user: a sentence for what can be helped, nothing for a bug."""

from __future__ import annotations

import errno

import typer

from valley2_edge.errors import OptionError, Valley2Error

_WRITING = {errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EBADF}


def sentence_of(error: BaseException) -> str | None:
    """The sentence for a mistake of the user or a limit of the machine; None: it is a bug of ours."""
    if isinstance(error, OptionError):
        return error.as_typed
    if isinstance(error, typer.TyperException):
        # What checks a choice for typer puts its own words before the sentence.
        return str(error.format_message()).replace("Value error, ", "")
    if isinstance(error, Valley2Error):
        return str(error)
    if isinstance(error, OSError):
        # Python names files that it cannot open, and none that it cannot write.
        unnamed = "stdout or a file cannot be written: " if error.errno in _WRITING else ""
        return f"{unnamed if error.filename is None else f'{error.filename}: '}{error.strerror or error}"
    if isinstance(error, MemoryError):
        return "the memory of this machine does not suffice"
    return None
