"""`valley2-edge demo`."""

from __future__ import annotations

import shlex
from pathlib import Path

from PIL import Image


def test_pictures_are_kept_and_the_last_line_asks_about_one_again(run, tmp_path: Path) -> None:
    output = tmp_path / "it's mine"
    outcome = run("demo", "--output", output)
    assert outcome.code == 0
    assert sorted(path.name for path in output.iterdir()) == ["after.png", "before.png", "card.png", "clip.webp"]
    assert Image.open(output / "card.png").format == "PNG"
    words = shlex.split(outcome.stdout.splitlines()[-1].removeprefix("Next: "))
    assert words[:5] == ["valley2-edge", "chat", "--bundle", "nano", str(output / "card.png")]
    answer = run(*words[1:])
    assert answer.code == 0
    assert f"  {answer.stdout.strip()}  (right)" in outcome.stdout.splitlines()[1]


def test_without_a_place_it_says_how_to_keep_them(run) -> None:
    outcome = run("demo")
    assert outcome.code == 0
    assert outcome.stdout.splitlines()[-1] == "Next: valley2-edge demo --output demo-pictures"
