"""Where both commands and `python -m valley2_edge` begin: Ctrl-C is quiet from here on, before anything is imported."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_CANCELLED = 130


def main() -> int:
    """Runs the process's command line.

    Returns:
        The exit code, as `valley2_edge.cli.main.main` tells it.
    """
    try:
        import signal

        # While modules are imported nothing needs tidying, and not every import survives an exception.
        heard = signal.getsignal(signal.SIGINT)
        if heard is signal.default_int_handler:
            signal.signal(signal.SIGINT, _end)
        # Neither help pages nor completions of ours are drawn with rich, whose import would take half of their time.
        os.environ.setdefault("TYPER_USE_RICH", "0")
        from valley2_edge.cli.main import run_process

        signal.signal(signal.SIGINT, heard)
        return run_process()
    except KeyboardInterrupt:
        _end()


def _end(*_: object) -> NoReturn:
    try:
        os.write(2, b"valley2-edge: cancelled\n")
    finally:
        os._exit(_CANCELLED)


if __name__ == "__main__":
    sys.exit(main())
