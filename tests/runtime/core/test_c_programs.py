"""Programs in C, the usage example of the header and examples/generate.c, run and say what Python says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from decoder_files import TinyConfig, random_weights, write_decoder

from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.generation import GenerateOptions
from valley2_edge.runtime.core.library import library_path

ROOT = Path(__file__).resolve().parents[3]
INCLUDE = ROOT / "runtime" / "native" / "include"
CONFIG = TinyConfig(num_hidden_layers=1)
BEFORE, AFTER, PICTURE_TOKENS = [5, 9, 2, 7], [11, 3], 3
STOPS = [1, 2]

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or os.name == "nt", reason="needs a C compiler that takes the options of cc"
)

PROGRAM = """
#include "valley2.h"
#include <stdio.h>

static int on_event(const v2e_event *event, void *user_data) {
    if (event->kind == V2E_EVENT_TOKEN)
        printf("%%d ", (int)event->token);
    return user_data == NULL; /* it is what the caller gave */
}

int main(void) {
    const int32_t before[] = {%(before)s}, after[] = {%(after)s}, stops[] = {%(stops)s};
    const size_t before_count = %(before_count)d, after_count = %(after_count)d, picture_count = %(picture_count)d;
    static float picture_tokens[%(picture_count)d * %(hidden_size)d];
    char given, *user_data = &given;
    for (size_t i = 0; i < sizeof picture_tokens / sizeof *picture_tokens; ++i)
        picture_tokens[i] = (float)(i %% 7) / 8;
%(example)s
    fputs(v2e_last_error(), stderr);
    return v2e_last_error()[0] == 0 && (reason == V2E_STOP_TOKEN || reason == V2E_STOP_LENGTH) ? 0 : 1;
}
"""


def usage_example() -> str:
    """The code in the comment that the header begins with."""
    comment = (INCLUDE / "valley2.h").read_text().split("*/")[0]
    found = re.search(r"^ \* Usage.*?:\n(.*?)^ \* Rules\.$", comment, re.MULTILINE | re.DOTALL)
    assert found is not None
    return "\n".join(line.removeprefix(" *") for line in found[1].splitlines())


def compile_program(source: Path, program: Path) -> Path:
    library = library_path().resolve()
    warnings = ("-Wall", "-Wextra", "-Wpedantic", "-Wno-missing-field-initializers", "-Werror")
    command = ["cc", "-std=c99", *warnings, "-I", INCLUDE, source, "-o", program, library]
    done = subprocess.run([*command, f"-Wl,-rpath,{library.parent}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def run(directory: Path, *command: str | Path) -> list[str]:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a decoder in bundle/decoder."""
    directory = tmp_path_factory.mktemp("place")
    (directory / "bundle" / "decoder").mkdir(parents=True)
    write_decoder(directory / "bundle" / "decoder", CONFIG, random_weights(CONFIG))
    return directory


def said(place: Path, segments: list[np.ndarray], options: GenerateOptions) -> list[str]:
    tokens: list[int] = []
    with Decoder(place / "bundle" / "decoder", threads=1) as decoder, decoder.session() as session:
        session.prefill(segments)
        session.generate(options, tokens.append)
    return [str(token) for token in tokens]


def test_usage_example_of_the_header_runs(place: Path) -> None:
    source = place / "usage.c"
    source.write_text(
        PROGRAM
        % {
            "before": ", ".join(map(str, BEFORE)),
            "after": ", ".join(map(str, AFTER)),
            "stops": ", ".join(map(str, STOPS)),
            "before_count": len(BEFORE),
            "after_count": len(AFTER),
            "picture_count": PICTURE_TOKENS,
            "hidden_size": CONFIG.hidden_size,
            "example": usage_example(),
        }
    )
    picture = (np.arange(PICTURE_TOKENS * CONFIG.hidden_size) % 7 / 8).astype(np.float32)
    segments = [np.array(BEFORE, np.int32), picture.reshape(PICTURE_TOKENS, -1), np.array(AFTER, np.int32)]
    expected = said(place, segments, GenerateOptions(max_new_tokens=256, stop_tokens=tuple(STOPS)))
    assert expected
    assert run(place, compile_program(source, place / "usage")) == expected


def test_example_generates_what_python_generates(place: Path) -> None:
    program = compile_program(ROOT / "examples" / "generate.c", place / "generate")
    expected = said(place, [np.array(BEFORE, np.int32)], GenerateOptions(max_new_tokens=16))
    words = run(place, program, "bundle/decoder", "16", *map(str, BEFORE))
    assert words == [*expected, "Done."] and len(expected) == 16


def test_example_says_what_is_wrong(place: Path) -> None:
    program = compile_program(ROOT / "examples" / "generate.c", place / "generate")
    done = subprocess.run([program, "no/such/bundle", "16", "1"], cwd=place, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"open model: .*no/such/bundle.*\.\n", done.stderr)
