"""Asks a bundle about a picture, then asks again in the same conversation, which stops after five seconds.

python examples/ask.py BUNDLE picture.jpg "What is on the label?"
"""

from __future__ import annotations

import sys
import threading

from valley2_edge import Cancelled, Valley2, Valley2Error


def main(bundle: str, picture: str, question: str) -> None:
    """Prints both answers while they are made.

    Raises:
        Valley2Error: The bundle or the picture is not acceptable.
    """
    model = Valley2.load(bundle)
    session = model.session(system="Answer in one sentence.")
    for piece in session.ask(question, images=[picture]):
        print(piece, end="", flush=True)
    print()

    # cancel() may be called from any thread; the session stays usable.
    timer = threading.Timer(5.0, session.cancel)
    timer.start()
    try:
        for piece in session.ask("Tell me more."):
            print(piece, end="", flush=True)
        print()
    except Cancelled:
        print("\n(stopped after five seconds)")
    finally:
        timer.cancel()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except Valley2Error as error:
        sys.exit(f"error: {error}")
