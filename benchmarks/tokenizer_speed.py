"""How fast a text becomes token ids: the core beside the package `tokenizers`, on one core of the processor.

    python benchmarks/tokenizer_speed.py Qwen2.5/tokenizer.json text.txt

Processor time is what counts, so that other programs do not disturb the measurement. The best of a few rounds is shown,
first for the text as it is, then for its letters and digits alone, which have no spaces to cut at. Both must give the
same ids.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # before the package is imported

import tokenizers

from valley2_edge.runtime.core.tokenizer import Tokenizer

ROUNDS = 5


def best_seconds(call: Callable[[], object]) -> float:
    """Processor seconds of the fastest of some calls."""
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return min(times)


def main() -> int:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", type=Path, help="a tokenizer.json of a Qwen2")
    parser.add_argument("text", type=Path, help="a text of a megabyte or so, in UTF-8")
    options = parser.parse_args()
    begin = time.process_time()
    core = Tokenizer(options.tokenizer)
    print(f"loaded in {time.process_time() - begin:.2f} s")
    begin = time.process_time()
    reference = tokenizers.Tokenizer.from_file(str(options.tokenizer))
    print(f"loaded by tokenizers in {time.process_time() - begin:.2f} s\n")
    text = options.text.read_text("utf-8")
    print(f"{'text':<16} {'core, MB/s':>12} {'tokenizers, MB/s':>18}")
    for name, sample in (("as it is", text), ("without spaces", re.sub(r"[^a-z0-9]+", "", text.lower()))):
        size = len(sample.encode()) / 1e6
        if core.encode_with_controls(sample) != reference.encode(sample, add_special_tokens=False).ids:
            print(f"{name}: the ids differ", file=sys.stderr)
            return 1
        ours = size / best_seconds(lambda sample=sample: core.encode_with_controls(sample))  # type: ignore[misc]
        theirs = size / best_seconds(lambda sample=sample: reference.encode(sample))  # type: ignore[misc]
        print(f"{name:<16} {ours:>12.1f} {theirs:>18.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
