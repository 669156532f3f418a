"""Sessions in files: what goes on as if nothing had been, and every file that is refused."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from decoder_files import TinyConfig, random_weights, write_decoder

from valley2_edge import BudgetError, InputError, Session, Valley2
from valley2_edge.runtime.decoder import Decoder, DecoderSession
from valley2_edge.runtime.generation import GenerateOptions

CONFIG = TinyConfig(num_hidden_layers=2)
RANDOM = np.random.default_rng(5)
PROMPT = RANDOM.integers(0, CONFIG.vocab_size, 300, dtype=np.int32)
PICTURE = RANDOM.standard_normal((40, CONFIG.hidden_size)).astype(np.float32)
END = np.array([3, 4, 5], np.int32)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("bundle")
    write_decoder(bundle / "decoder", CONFIG, random_weights(CONFIG), "int4")
    (bundle / "valley2.json").write_text("stands for a manifest")
    return bundle / "decoder"


@pytest.fixture
def decoder(directory: Path) -> Iterator[Decoder]:
    with Decoder(directory, threads=2) as opened:
        yield opened


def continued(session: DecoderSession, tokens: int = 12, **options: Any) -> list[int]:
    chosen: list[int] = []
    session.generate(GenerateOptions(max_new_tokens=tokens, **options), chosen.append)
    return chosen


def saved(decoder: Decoder, path: Path, **options: Any) -> tuple[list[int], npt.NDArray[np.float32]]:
    """Saves in the middle of an answer; what comes after it there."""
    with decoder.session(**options) as session:
        session.prefill([PROMPT, PICTURE, END])
        continued(session)
        session.save(path, "a note")
        rest = continued(session, repetition_penalty=1.2)
        session.prefill([END])
        return rest, session.logits()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("same_model", [True, False])
def test_loaded_session_goes_on_with_the_same_bits(
    directory: Path, decoder: Decoder, tmp_path: Path, precision: str, same_model: bool
) -> None:
    rest, logits = saved(decoder, tmp_path / "file", kv_precision=precision, context_length=900)
    with Decoder(directory, threads=1) as other:
        session = (decoder if same_model else other).load_session(tmp_path / "file")
        assert (session.length, session.note) == (355, "a note")
        assert continued(session, repetition_penalty=1.2) == rest
        session.prefill([END])
        np.testing.assert_array_equal(session.logits(), logits)
        with pytest.raises(BudgetError, match="the context holds 900"):
            session.prefill([np.zeros(600, np.int32)])
        session.close()


def test_loaded_session_shares_its_pages(directory: Path, decoder: Decoder, tmp_path: Path) -> None:
    saved(decoder, tmp_path / "file")
    with Decoder(directory) as other, other.load_session(tmp_path / "file"), other.session(reuse="auto") as session:
        session.prefill([PROMPT, PICTURE, END])
        assert session.counters.reused_positions == 342


def test_bits_of_another_arithmetic_are_not_for_other_sessions(
    directory: Path, decoder: Decoder, tmp_path: Path
) -> None:
    saved(decoder, tmp_path / "file")
    with Decoder(directory, activations="int16") as other:
        with other.load_session(tmp_path / "file") as session:
            session.prefill([END])
        assert other.prefix_cache.pages == 0


def test_empty_session(decoder: Decoder, tmp_path: Path) -> None:
    with decoder.session() as session:
        session.save(tmp_path / "file")
    with decoder.load_session(tmp_path / "file") as loaded:
        assert (loaded.length, loaded.note) == (0, "")
        with pytest.raises(InputError, match="no logits"):
            continued(loaded)


def test_file_says_nothing_of_earlier_memory(decoder: Decoder, tmp_path: Path) -> None:
    files = []
    for text in (PROMPT[::-1].copy(), PROMPT):
        with decoder.session() as session:
            session.prefill([text])
            session.truncate(40)  # leaves the places behind as they are
            session.truncate(0)
            session.prefill([PROMPT[:20]])
            session.save(tmp_path / "file")
        files.append((tmp_path / "file").read_bytes())
    assert files[0] == files[1]
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def rewritten(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(change(path.read_bytes())) and None


def test_damaged_files_are_refused_in_one_sentence(decoder: Decoder, tmp_path: Path) -> None:
    saved(decoder, tmp_path / "good")
    size = (tmp_path / "good").stat().st_size
    damages: list[tuple[Callable[[Path], Any], str]] = [
        (Path.unlink, "Cannot open"),
        (rewritten(lambda content: b""), "is empty"),
        (rewritten(lambda content: b"Dear session"), "header"),
        (rewritten(lambda content: content[: size // 2]), "truncated"),
        (rewritten(lambda content: content + b"more"), "bytes after its last tensor"),
        (rewritten(lambda content: content[:-99] + bytes([content[-99] ^ 1]) + content[-98:]), "is damaged"),
        (rewritten(lambda content: content[: size // 2] + b"?" + content[size // 2 + 1 :]), "is damaged"),
        (rewritten(lambda content: content.replace(b'"context_length":"', b'"context_length":x', 1)), "header"),
        (rewritten(lambda content: content.replace(b'"kv_precision":"fp16"', b'"kv_precision":"int8"')), "is damaged"),
        (rewritten(lambda content: content.replace(b"valley2-session", b"valley2-decoder")), "is not a saved session"),
        (rewritten(lambda content: content.replace(b'version":"1"', b'version":"2"')), "another format version"),
    ]
    for damage, sentence in damages:
        path = tmp_path / "file"
        shutil.copy(tmp_path / "good", path)
        damage(path)
        with pytest.raises(InputError, match=sentence):
            decoder.load_session(path)
    assert decoder.prefix_cache.pages == 0
    with pytest.raises(InputError, match="is not a file"):
        decoder.load_session(tmp_path)


def test_other_bundle_is_refused(directory: Path, decoder: Decoder, tmp_path: Path) -> None:
    saved(decoder, tmp_path / "file")
    shutil.copytree(directory, tmp_path / "other" / "decoder")
    with (
        Decoder(tmp_path / "other" / "decoder") as alone,
        alone.session() as session,
        pytest.raises(InputError, match=r"no valley2\.json stands beside"),
    ):
        session.save(tmp_path / "file")
    (tmp_path / "other" / "valley2.json").write_text("another manifest")
    with Decoder(tmp_path / "other" / "decoder") as other, pytest.raises(InputError, match="another bundle"):
        other.load_session(tmp_path / "file")


def test_unwritable_places_are_refused(decoder: Decoder, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with decoder.session() as session:
        for path in (tmp_path / "none" / "file", tmp_path / "folder"):
            with pytest.raises(InputError, match=r"Cannot (create|replace)"):
                session.save(path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


FULL_DISK = """
import resource, sys
import numpy as np
from pathlib import Path
from valley2_edge.errors import InputError
from valley2_edge.runtime.decoder import Decoder
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
with Decoder(Path(sys.argv[1])) as decoder, decoder.session() as session:
    session.prefill([np.arange(300, dtype=np.int32)])
    try:
        session.save(Path(sys.argv[2]))
    except InputError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_full_disk_leaves_the_older_file_as_it_was(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("older")
    command = [sys.executable, "-c", FULL_DISK, str(directory), str(tmp_path / "file")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "Cannot write" in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "older"


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
            for note in ("", "{}", json.dumps({"version": 2, "options": {}, "turns": []})):
                session.save(tmp_path / "file", note)
                with pytest.raises(InputError, match="was not saved by this release"):
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
