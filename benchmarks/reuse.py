"""Measures how soon a second question about a picture starts to be answered, beside the first one.

    python benchmarks/reuse.py --bundle nano --size 1280x720

Every repetition takes another picture of noise and asks four questions about it:

  first    a new picture in a new session
  again    a further question in the same session
  anew     the same picture in another session, with another question
  resumed  a question in a session that was saved and loaded; the time of loading is counted

Figures are medians of the seconds to the first token, and of the shares of the same repetition's first question.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from valley2_edge import Session, Valley2
from valley2_edge.chosen_bundle import resolve_bundle
from valley2_edge.errors import Valley2Error

FIRST = "What is in this picture?"
SECOND = "Which colours does it have?"
CASES = ("first", "again", "anew", "resumed")


def noise(width: int, height: int, seed: int) -> npt.NDArray[np.uint8]:
    """(height, width, 3) RGB."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def seconds_to_first_token(session: Session, question: str, pictures: list[npt.NDArray[np.uint8]]) -> float:
    """Asks for one token."""
    for _ in session.ask(question, images=pictures, max_new_tokens=1):
        pass
    first = session.statistics.first_token_seconds
    # A model that would rather say nothing is done when it has said so.
    return session.statistics.total_seconds if first is None else first


def measure(model: Valley2, picture: npt.NDArray[np.uint8], file: Path) -> dict[str, float]:
    """Seconds by case, of one picture."""
    seconds = {}
    session, other = model.session(), model.session()
    seconds["first"] = seconds_to_first_token(session, FIRST, [picture])
    session.save(file)
    seconds["again"] = seconds_to_first_token(session, SECOND, [])
    seconds["anew"] = seconds_to_first_token(other, SECOND, [picture])
    begin = time.perf_counter()
    resumed = Session.load(file, model)
    loaded = time.perf_counter() - begin
    seconds["resumed"] = loaded + seconds_to_first_token(resumed, SECOND, [])
    for used in (session, other, resumed):
        used.close()
    return seconds


def main() -> int:
    """Reads the command line, measures, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("nano"), help="a bundle; nano comes with the package")
    parser.add_argument("--size", default="1280x720", help="width and height of the pictures in pixels")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    width, height = (int(side) for side in arguments.size.split("x"))
    samples = []
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            Valley2.load(resolve_bundle(arguments.bundle), threads=arguments.threads, keep_vision=True) as model,
        ):
            for seed in range(arguments.repetitions + 1):
                samples.append(measure(model, noise(width, height, seed), Path(folder) / "session"))
    except Valley2Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    del samples[0]  # the first one loads the engines and touches the weights
    print(f"{'question':<10}{'ms to the first token':>24}{'share of the first':>22}")
    for case in CASES:
        milliseconds = 1000 * statistics.median(sample[case] for sample in samples)
        share = statistics.median(sample[case] / sample["first"] for sample in samples)
        print(f"{case:<10}{milliseconds:>24.1f}{share:>22.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
