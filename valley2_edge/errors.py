"""The errors that a caller of valley2_edge can meet."""

from __future__ import annotations


class Valley2Error(Exception):
    """Base of every error that valley2_edge raises on purpose; its text is one clear sentence."""


class InputError(Valley2Error):
    """A picture, a video, a prompt or an option is not acceptable."""


class OptionError(InputError):
    """An option of a call is out of range.

    Args:
        name: The keyword's name, with underscores.
        rest: How the sentence goes on that begins with the name.
    """

    def __init__(self, name: str, rest: str) -> None:
        super().__init__(name, rest)
        self.name = name
        self.rest = rest

    def __str__(self) -> str:
        return f"{self.name} {self.rest}"

    @property
    def as_typed(self) -> str:
        """The sentence for the command line, where the option is written --like-this."""
        return f"--{self.name.replace('_', '-')} {self.rest}"


class BundleError(Valley2Error):
    """A bundle is missing, damaged, or of a version that this release does not read."""


class CheckpointError(Valley2Error):
    """A checkpoint lacks a file or a tensor, or has one that it must not have."""


class ExportError(Valley2Error):
    """A bundle cannot be made from an otherwise good checkpoint."""


class EngineError(Valley2Error):
    """An engine on a device cannot be built, loaded or run, or computes wrong; where it may, another one goes on."""


class BudgetError(Valley2Error):
    """The context, the memory or the disk does not suffice."""


class NumericError(Valley2Error):
    """A stage computed a NaN or an infinity; the text names the stage."""


class Cancelled(Valley2Error):
    """The caller cancelled; the session stays usable."""


class Valley2Warning(UserWarning):
    """Something the user should hear that does not stop the work: a fallback, a frame or a picture left out."""
