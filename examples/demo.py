"""The whole way in a minute: a small random checkpoint, its export to int4, and a chat about a picture.

    python examples/demo.py build/demo

The weights are random, so the answer is nonsense; every stage between the picture and the answer is the real one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from valley2_edge.export.synthetic import small_config, write_synthetic_checkpoint
from valley2_edge.export.synthetic_tokenizer import ADDED_TOKEN_COUNT, write_tokenizer

BASE_VOCABULARY = 1500


def make_checkpoint(directory: Path) -> None:
    """Writes the random checkpoint, in the place of an earlier one."""
    shutil.rmtree(directory, ignore_errors=True)
    with tempfile.TemporaryDirectory() as tokenizer:
        stop_tokens = write_tokenizer(Path(tokenizer), BASE_VOCABULARY)
        config = small_config(vocab_size=BASE_VOCABULARY + ADDED_TOKEN_COUNT, stop_tokens=stop_tokens)
        write_synthetic_checkpoint(directory, config, Path(tokenizer))


def draw_picture(path: Path) -> None:
    """Draws a bottle with a label, 640 x 480 pixels."""
    picture = Image.new("RGB", (640, 480), "#dfe8ee")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 380, 640, 480), fill="#9a7b5a")
    draw.rounded_rectangle((250, 150, 390, 430), radius=24, fill="#2f6b4f")
    draw.rectangle((295, 60, 345, 160), fill="#2f6b4f")
    draw.rectangle((288, 44, 352, 72), fill="#b5483a")
    draw.rectangle((250, 230, 390, 340), fill="#f6efdc")
    draw.text((320, 285), "VALLEY", fill="#2a2a2a", anchor="mm", font=ImageFont.load_default(size=30))
    picture.save(path)


def run(directory: Path, *arguments: str | Path) -> None:
    """Shows a command of valley2_edge and runs it; what it remembers stays inside the demo's directory."""
    words = [str(argument) for argument in arguments]
    print("\n$ valley2_edge " + " ".join(f'"{word}"' if " " in word else word for word in words), flush=True)
    environment = os.environ | {"VALLEY2_DATA_DIR": str(directory / "data")}
    command = shutil.which("valley2_edge", path=sysconfig.get_path("scripts")) or "valley2_edge"
    subprocess.run([command, *words], check=True, env=environment)


def main(directory: Path) -> None:
    """Runs the demo in a directory, which is made when it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    checkpoint, bundle, picture = directory / "checkpoint", directory / "bundle", directory / "bottle.png"
    print(f"A small Valley2 with random weights goes to {checkpoint}, a picture to {picture}.")
    make_checkpoint(checkpoint)
    draw_picture(picture)
    run(directory, "export", checkpoint, "--precision", "int4", "--output", bundle, "--overwrite")
    run(directory, "inspect", bundle)
    run(directory, "verify", bundle)
    run(directory, "chat", picture, "What is on the label?", "--bundle", bundle, "--max-new-tokens", "32", "--stats")
    print("\nThe answer is nonsense because the weights are random. Every stage before it was the real one.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(Path(sys.argv[1]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"the command above failed with exit code {error.returncode}")
