"""The header's usage example and examples/c/chat.c, compiled, linked and run with valley2-nano."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from c_program import INCLUDE, compile_program

from valley2_edge.chosen_bundle import resolve_bundle
from valley2_edge.runtime.core.library import library_path
from valley2_edge.runtime.model import Valley2

ROOT = Path(__file__).resolve().parents[3]
QUESTION = "What is in the picture?"

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or os.name == "nt", reason="needs a C compiler that takes the options of cc"
)

PROGRAM = """
#include "valley2.h"
#include <stdio.h>

int main(int argc, char **argv) {
    static unsigned char bytes[1 << 20];
    FILE *file = fopen(argv[argc - 1], "rb");
    const size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
%s
    fputs(v2e_last_error(), stderr);
    return 0;
}
"""


def usage_example() -> str:
    """The code in the comment that the header begins with."""
    found = re.search(r"^ \* Usage.*?:\n(.*?)^ \* Objects\.$", (INCLUDE / "valley2.h").read_text(), re.M | re.S)
    assert found is not None
    return "\n".join(line.removeprefix(" *") for line in found[1].splitlines())


@pytest.fixture(scope="module")
def picture() -> Path:
    return resolve_bundle("nano") / "selftest" / "picture.png"


@pytest.fixture(scope="module")
def expected(picture: Path) -> str:
    with Valley2.load(resolve_bundle("nano")) as model:
        return "".join(model.chat(QUESTION, images=[picture]))


def test_usage_example_of_the_header_answers_what_python_answers(tmp_path: Path, picture: Path, expected: str) -> None:
    (tmp_path / "usage.c").write_text(PROGRAM % usage_example())
    program = compile_program(tmp_path / "usage.c", tmp_path / "usage")
    (tmp_path / "my-bundle").symlink_to(resolve_bundle("nano").resolve())
    done = subprocess.run([program, picture.resolve()], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_chat_answers_what_python_answers(tmp_path: Path, picture: Path, expected: str) -> None:
    program = compile_program(ROOT / "examples" / "c" / "chat.c", tmp_path / "chat")
    done = subprocess.run([program, resolve_bundle("nano"), picture, QUESTION], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected + "\n", "")


@pytest.mark.parametrize(
    ("bundle", "shown", "sentence"),
    [
        ("no/such/bundle", None, "model: .*no/such/bundle is not a directory.*"),
        (None, str(Path(__file__)), "picture: .*"),
        (None, "no/such/picture", "picture: .*"),
    ],
)
def test_chat_says_what_is_wrong(
    tmp_path: Path, picture: Path, bundle: str | None, shown: str | None, sentence: str
) -> None:
    program = compile_program(ROOT / "examples" / "c" / "chat.c", tmp_path / "chat")
    command = [program, bundle or resolve_bundle("nano"), shown or picture, QUESTION]
    done = subprocess.run([str(part) for part in command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and re.fullmatch(sentence + "\n", done.stderr)


def test_the_library_exports_what_the_headers_declare_alone() -> None:
    if shutil.which("nm") is None or os.uname().sysname != "Linux":
        pytest.skip("needs nm on Linux")
    listing = subprocess.run(["nm", "-D", "--defined-only", library_path()], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in listing.stdout.splitlines()}
    declared = set(re.findall(r"V2E_API[^;]*?\b(v2e_\w+)\(", "".join(p.read_text() for p in INCLUDE.glob("*.h"))))
    assert {name for name in names if not name.startswith("v2e_private_")} == declared
