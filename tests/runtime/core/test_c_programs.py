"""Programs in C that use a decoder by itself run and say what Python says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from backend_decoders import write_bundle
from c_program import INCLUDE, compile_program
from decoder_files import TinyConfig

from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.generation import GenerateOptions

ROOT = Path(__file__).resolve().parents[3]
CONFIG = TinyConfig(num_hidden_layers=1)
BEFORE, AFTER, PICTURE_TOKENS = [5, 9, 2, 7], [11, 3], 3
STOPS = [1, 2]

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or os.name == "nt", reason="needs a C compiler that takes the options of cc"
)

PROGRAM = """
#include "valley2_parts.h"
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


BACKEND_PROGRAM = """
#include "valley2_parts.h"
#include <stdio.h>
#include <string.h>

/* A decoder that says at every position its number, and forgets what stands behind `past`. */
typedef struct engine { size_t positions; int closed; } engine;

static v2e_status open_engine(void *user_data, uint32_t component, void **opened) {
    if (component != V2E_COMPONENT_DECODER)
        return v2e_backend_fail(V2E_ERROR_INPUT, "It computes decoders alone.");
    *opened = user_data;
    return V2E_OK;
}
static v2e_status cost(void *user_data, const v2e_backend_shape *shape, v2e_backend_cost *cost) {
    (void)user_data;
    cost->kv_bytes = shape->positions * 10;
    return V2E_OK;
}
static v2e_status run(void *opened, const v2e_backend_run *call) {
    engine *one = opened;
    const size_t vocabulary = call->logit_rows == 0 ? 0 : call->output_floats / call->logit_rows;
    if (call->past > one->positions)
        return v2e_backend_fail(V2E_ERROR_INTERNAL, "Positions were left out.");
    one->positions = call->past + call->count;
    memset(call->output, 0, call->output_floats * sizeof(float));
    for (size_t row = 0; row < call->logit_rows; ++row)
        call->output[row * vocabulary + one->positions - call->logit_rows + row] = 1;
    return one->positions > 30 ? v2e_backend_fail(V2E_ERROR_BUDGET, "It counts to 30.") : V2E_OK;
}
static void close_engine(void *opened) { ((engine *)opened)->closed = 1; }

static int on_event(const v2e_event *event, void *user_data) {
    (void)user_data;
    if (event->kind == V2E_EVENT_TOKEN)
        printf("%d ", (int)event->token);
    return 0;
}

int main(void) {
    engine one = {0, 0};
    v2e_backend backend = {sizeof backend, "counter", &one, open_engine, cost, run, NULL, close_engine};
    v2e_decoder_options model_options = {sizeof model_options};
    v2e_decoder_session_options session_options = {sizeof session_options};
    v2e_generate_options generate = {sizeof generate};
    const int32_t prompt[] = {1, 2, 3, 4};
    v2e_segment segment = {prompt, NULL, 4};
    v2e_decoder *model = NULL;
    v2e_decoder_session *session = NULL;
    v2e_stop_reason reason;
    v2e_status status;
    model_options.backend = &backend;
    generate.max_new_tokens = 8;
    if (v2e_decoder_open("bundle/decoder", &model_options, &model) ||
        v2e_decoder_session_open(model, &session_options, &session) ||
        v2e_decoder_session_prefill(session, &segment, 1, 1, NULL, NULL) ||
        v2e_decoder_session_generate(session, &generate, on_event, NULL, &reason))
        return fputs(v2e_last_error(), stderr), 1;
    printf("%d ", (int)v2e_decoder_session_kv_bytes(session));
    v2e_decoder_session_truncate(session, 2);
    v2e_decoder_session_prefill(session, &segment, 1, 1, NULL, NULL);
    generate.max_new_tokens = 0;
    status = v2e_decoder_session_generate(session, &generate, NULL, NULL, &reason);
    printf("%d %s ", (int)status, v2e_last_error());
    v2e_decoder_session_close(session);
    v2e_decoder_close(model);
    printf("%d", one.closed);
    return 0;
}
"""


def usage_example() -> str:
    """The code in the comment about the decoder."""
    header = (INCLUDE / "valley2_parts.h").read_text()
    found = re.search(r"^/\* -+ decoder\n.*?^ \* Usage.*?:\n(.*?)^ \*/$", header, re.MULTILINE | re.DOTALL)
    assert found is not None
    return "\n".join(line.removeprefix(" *") for line in found[1].splitlines())


def run(directory: Path, *command: str | Path) -> list[str]:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a decoder in bundle/decoder."""
    directory = tmp_path_factory.mktemp("place")
    write_bundle(directory / "bundle", CONFIG)
    return directory


def said(place: Path, segments: list[np.ndarray], options: GenerateOptions) -> list[str]:
    tokens: list[int] = []
    with Decoder(place / "bundle" / "decoder", threads=1) as decoder, decoder.session() as session:
        session.prefill(segments)
        session.generate(options, tokens.append)
    return [str(token) for token in tokens]


def test_usage_example_of_a_decoder_runs(place: Path) -> None:
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


def test_backend_in_c_computes_a_conversation(place: Path) -> None:
    source = place / "backend.c"
    source.write_text(BACKEND_PROGRAM)
    words = run(place, compile_program(source, place / "backend"))
    # Behind 4 positions it says 3, at the next one 4, and so on; 12 positions take 120 bytes.
    assert words == [*map(str, range(3, 11)), "120", "3", "It", "counts", "to", "30.", "1"]
