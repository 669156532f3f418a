"""Valley2 on the edge: load a bundle, ask about pictures, stream the answer.

from valley2_edge import Valley2

with Valley2.load("Valley2-DPO-int4") as model:
    for piece in model.chat("What is this?", images=["picture.jpg"]):
        print(piece, end="", flush=True)
"""

from __future__ import annotations

from importlib import import_module

from valley2_edge.errors import (
    BudgetError,
    BundleError,
    Cancelled,
    CheckpointError,
    ExportError,
    InputError,
    NumericError,
    OptionError,
    Valley2Error,
    Valley2Warning,
)
from valley2_edge.version import __version__

# Not from typing: until the command line listens for Ctrl-C, as little as possible is imported.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from valley2_edge.answer import Answer, parse_answer
    from valley2_edge.backends import register_backend
    from valley2_edge.options import LoadOptions, SamplingOptions, SessionOptions
    from valley2_edge.runtime.model import Valley2
    from valley2_edge.runtime.session import Session
    from valley2_edge.runtime.stats import Statistics

# Loaded on first use: the command line's --help, and the build-time half, need none of the engines.
_LAZY = {
    "Answer": "valley2_edge.answer",
    "parse_answer": "valley2_edge.answer",
    "LoadOptions": "valley2_edge.options",
    "SamplingOptions": "valley2_edge.options",
    "SessionOptions": "valley2_edge.options",
    "Session": "valley2_edge.runtime.session",
    "Statistics": "valley2_edge.runtime.stats",
    "Valley2": "valley2_edge.runtime.model",
    "register_backend": "valley2_edge.backends",
}

__all__ = [
    "Answer",
    "BudgetError",
    "BundleError",
    "Cancelled",
    "CheckpointError",
    "ExportError",
    "InputError",
    "LoadOptions",
    "NumericError",
    "OptionError",
    "SamplingOptions",
    "Session",
    "SessionOptions",
    "Statistics",
    "Valley2",
    "Valley2Error",
    "Valley2Warning",
    "__version__",
    "parse_answer",
    "register_backend",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(_LAZY[name])
    except ModuleNotFoundError as error:
        if error.name != "valley2_edge.runtime":
            raise
        raise ModuleNotFoundError(
            f"valley2_edge was imported from its sources in {__path__[0]}, not from where it is installed: "
            "start Python in another directory, or install with: pip install --editable .",
            name=error.name,
        ) from error
    return getattr(module, name)
