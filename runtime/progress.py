"""What a long call reports while it runs."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]
"""Called with a stage, what is done of it and its total, in the stage's own unit.

check: bytes; load: parts; build: steps of the phase of TensorRT's build; siglip: tiles; eagle: pictures; prefill:
positions; decode: tokens of max_new_tokens.
It is called from the thread that works, which may be a helper thread; an exception that it raises ends the call.
"""


def ignore_progress(stage: str, done: int, total: int) -> None:
    """The callback for a caller who gave none."""
