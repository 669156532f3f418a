"""The whole way in a minute: valley2-nano's export to int4, and three questions that it answers about pictures.

    python examples/demo.py build/demo

The first question is about one picture, the second about two, the third about a clip. The program fails when an
answer is wrong.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

PICTURES = Path(__file__).parent / "pictures"
QUESTIONS = (
    (("card.png",), "What is the price?", "$36.99"),
    (("before.png", "after.png"), "Compare the pictures.", "the badge: HOT and NEW"),
    (("--video", "clip.webp"), "List the steps of the clip.", "fill, ship, weigh, label"),
)
"""Files, question and right answer."""


def run(directory: Path, *arguments: str | Path) -> str:
    """Shows a command of valley2-edge, runs it and returns its output; what it remembers stays in the directory."""
    words = [str(argument) for argument in arguments]
    print("\n$ valley2-edge " + " ".join(f'"{word}"' if " " in word else word for word in words), flush=True)
    environment = os.environ | {"VALLEY2_DATA_DIR": str(directory / "data")}
    command = shutil.which("valley2-edge", path=sysconfig.get_path("scripts")) or "valley2-edge"
    result = subprocess.run([command, *words], check=True, env=environment, stdout=subprocess.PIPE, encoding="utf-8")
    print(result.stdout, end="", flush=True)
    return result.stdout


def main(directory: Path) -> None:
    """Runs the demo in a directory, which is made when it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    bundle = directory / "bundle"
    # The nearest level is enough for so small a model, and quicker than the default, GPTQ.
    run(directory, "export", "nano", "--precision", "int4", "--method", "rtn", "--output", bundle, "--overwrite")
    run(directory, "inspect", bundle)
    run(directory, "verify", bundle)
    wrong = []
    for files, question, expected in QUESTIONS:
        sources = [file if file.startswith("--") else PICTURES / file for file in files]
        answer = run(directory, "chat", *sources, question, "--bundle", bundle).strip()
        if answer != expected:
            wrong.append(f"{question} {answer!r} instead of {expected!r}")
    if wrong:
        sys.exit("wrong: " + "; ".join(wrong))
    print(f"\nAll {len(QUESTIONS)} answers are right.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(Path(sys.argv[1]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"the command above failed with exit code {error.returncode}")
