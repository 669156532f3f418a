"""A conversation in a file: its turns, its pictures and what another release wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from saved_file import SavedFile

from valley2_edge import InputError, Session, Valley2


def picture() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_conversation_goes_on_in_another_process_of_the_same_bundle(int4_bundle: Path, tmp_path: Path) -> None:
    with Valley2.load(int4_bundle, threads=2) as model:
        session = model.session(system="Answer briefly.", eagle_max_tokens=100, think=True)
        answer = "".join(session.ask("What?", images=[picture()], max_new_tokens=8, think=False))
        session.save(tmp_path / "file")
        expected = "".join(session.ask("And now?", max_new_tokens=8))
        used = session.context_used
    with Valley2.load(int4_bundle, threads=1) as model:
        session = Session.load(tmp_path / "file", model)
        (turn,) = session.turns
        assert (turn.question, turn.pictures, turn.answer) == ("What?", 1, answer)
        assert session.policy.eagle_max_tokens == 100
        assert "".join(session.ask("And now?", max_new_tokens=8)) == expected
        assert session.context_used == used
        assert session.turns[1].question == "And now?"  # without the request for four steps
        session.close()
        with pytest.raises(InputError, match="session is closed"):
            session.save(tmp_path / "file")


def test_note_of_another_release_is_refused(int4_bundle: Path, tmp_path: Path) -> None:
    with Valley2.load(int4_bundle) as model:
        with model.engines.decoder.session() as session:
            strange = [
                "",
                "{}",
                json.dumps({"version": 2, "options": {}, "turns": []}),
                100_000 * "[",
                '{"turns":"\\ud800"}',
            ]
            good = model.session()
            good.save(tmp_path / "file")
            good.close()
            note = bytes(SavedFile(tmp_path / "file").array("note", "u1")).decode()
            for name, value in (("context_length", -5), ("context_length", 10**30), ("prefill_chunk", -1)):
                options = json.loads(note)
                options["options"][name] = value
                strange.append(json.dumps(options))
            strange.append(note.replace('"version":1', '"version":1,"version":1'))
            for text in strange:
                session.save(tmp_path / "file", text)
                with pytest.raises(InputError, match=r"was not saved by this release|the note of"):
                    model.resume(tmp_path / "file")
        model.close()
        with pytest.raises(InputError, match="model is closed"):
            model.resume(tmp_path / "file")


def test_failed_question_is_no_turn(int4_bundle: Path) -> None:
    with Valley2.load(int4_bundle) as model:
        session = model.session()
        with pytest.raises(InputError):
            list(session.ask("What?", images=["none.jpg"]))
        assert session.turns == ()
