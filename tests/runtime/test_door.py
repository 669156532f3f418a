"""What the door of the header answers is what the reference and Python's sessions answer, token by token."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from door import ask, opened, opened_model

from valley2_edge.chosen_bundle import resolve_bundle
from valley2_edge.errors import BundleError, InputError
from valley2_edge.runtime.core._header import ffi
from valley2_edge.runtime.core.binding import new_struct
from valley2_edge.runtime.core.library import check, library
from valley2_edge.runtime.model import Valley2
from valley2_edge.verified_files import VerifiedFiles

GOLDEN = Path(__file__).parents[1] / "golden"
SYSTEM = "You are Valley, developed by ByteDance. Your are a helpfull Assistant."
NUMBERS = {"hub": 1, "repo": 2, "full": 4, "document": 3, "fast": 1, "fp16": 1, "int8": 3}
"""The header's numbers for the words of Python's options."""


def session_struct(**options: Any) -> Any:
    return new_struct("v2e_session_options", **options)


@pytest.mark.parametrize(("policy", "variant"), [("hub", "hf_eagle_ovis"), ("repo", "eagle_ovis")])
@pytest.mark.parametrize("case", ["tiny30x20", "text_only"])
def test_recorded_answers_of_the_reference(fp32_bundle: Path, policy: str, variant: str, case: str) -> None:
    record = json.loads((GOLDEN / "manifest.json").read_text())["cases"][variant][case]
    question = json.loads((GOLDEN / "inputs" / f"{case}.json").read_text())["chat_history"][-1]["content"]
    with np.load(GOLDEN / "inputs" / f"{case}.npz") as archive:
        images = [archive[name] for name in archive.files]
    preset = NUMBERS["full"] if policy == "hub" else NUMBERS["document"]
    system = ffi.new("char[]", SYSTEM.encode())
    options = session_struct(policy=NUMBERS[policy], strict=1, eagle_preset=preset, system=system)
    with opened_model(fp32_bundle) as model, opened("session", model, options) as session:
        assert ask(session, question, images, max_new_tokens=16).text == record["generated_text"]


@pytest.mark.parametrize(
    ("python", "header"),
    [
        ({}, {}),
        ({"policy": "repo"}, {"policy": 2}),
        ({"eagle": False}, {"no_eagle": 1}),
        ({"tiles": False, "eagle_preset": "fast"}, {"no_tiles": 1, "eagle_preset": 1}),
        ({"kv_precision": "int8", "prefill_chunk": 33}, {"kv_precision": 3, "prefill_chunk": 33}),
        ({"think": True}, {"think": 1}),
        ({"strict": True, "policy": "repo"}, {"strict": 1, "policy": 2}),
    ],
    ids=str,
)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["fp32_bundle", "int4_bundle", "int8_vision_bundle", "nano"])
def test_answers_equal_those_of_python(
    request: pytest.FixtureRequest, name: str, python: dict[str, Any], header: dict[str, Any]
) -> None:
    bundle = resolve_bundle("nano") if name == "nano" else request.getfixturevalue(name)
    generator = np.random.default_rng(5)
    shown = [generator.integers(0, 256, size, np.uint8) for size in ((90, 140, 3), (64, 50, 3))]
    turns: list[tuple[str, list[Any]]] = [("What is this?", shown[:1]), ("And these?", shown), ("Why <image>?", [])]
    if python.get("strict"):
        turns = turns[:2]  # there the last one has a place without a picture
    sampling: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0.9, "top_k": 40, "seed": 7}
    with (
        Valley2.load(bundle, vision_cache_bytes=0) as model,
        closing(model.session(**python)) as expected,
        opened_model(bundle) as handle,
        opened("session", handle, session_struct(**header)) as session,
    ):
        for text, images in turns:
            wanted = "".join(expected.ask(text, images=images, **sampling))
            said = ask(session, text, images, max_new_tokens=12, temperature=0.9, top_k=40, fixed_seed=1, seed=7)
            assert said.text == wanted
            about = new_struct("v2e_session_description")
            check(library().v2e_session_describe(session, about))
            assert (about.length, about.turn_count) == (expected.context_used, len(expected.turns))


def test_a_session_saved_by_either_goes_on_with_the_other(tmp_path: Path, int4_bundle: Path) -> None:
    path = str(tmp_path / "session").encode()
    with opened_model(int4_bundle) as handle, Valley2.load(int4_bundle) as model:
        with opened("session", handle, session_struct(think=1, eagle_max_tokens=100)) as session:
            ask(session, 'A "quoted" question\n\x01 é', max_new_tokens=5)
            check(library().v2e_session_save(session, path))
            expected = ask(session, "And?", max_new_tokens=8).text
        resumed = model.resume(tmp_path / "session")
        assert resumed.options.think and resumed.options.eagle_max_tokens == 100
        assert resumed.turns[0].question.startswith('A "quoted" question\n\x01 é')
        assert "".join(resumed.ask("And?", max_new_tokens=8)) == expected
        resumed.save(tmp_path / "again")
        loaded = ffi.new("v2e_session **")
        check(library().v2e_session_load(handle, str(tmp_path / "again").encode(), loaded))
        turn = new_struct("v2e_turn")
        check(library().v2e_session_turn(loaded[0], 1, turn))
        assert ffi.string(turn.answer).decode() == expected
        library().v2e_session_close(loaded[0])


def test_python_and_the_core_share_the_record_of_checked_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALLEY2_DATA_DIR", str(tmp_path / "data"))
    bundle = resolve_bundle("nano").resolve()
    with opened("model", str(bundle).encode(), new_struct("v2e_model_options", device=1)):
        pass
    from valley2_edge.outside_files import FileStamp

    path = bundle / "tokenizer" / "tokenizer.json"
    assert VerifiedFiles().sha256(path, FileStamp.of(path)) is not None


def test_a_bundle_is_refused_in_the_same_words(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle: it has no valley2\.json"), opened_model(tmp_path):
        pass
    with pytest.raises(BundleError, match="is not a directory"), opened_model(tmp_path / "none"):
        pass


def test_decoder_in_onnx_runtime_is_refused_by_a_sentence(onnx_bundle: Path) -> None:
    with pytest.raises(InputError, match="made for ONNX Runtime"), opened_model(onnx_bundle):
        pass
