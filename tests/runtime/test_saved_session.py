"""Sessions in files: what goes on as if nothing had been, and every file that is refused."""

from __future__ import annotations

import os
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
from saved_file import SavedFile

from valley2_edge import BudgetError, InputError
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.decoder_session import DecoderSession
from valley2_edge.runtime.core.generation import GenerateOptions

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


def test_loaded_session_shares_nothing(decoder: Decoder, tmp_path: Path) -> None:
    saved(decoder, tmp_path / "good")
    file = SavedFile(tmp_path / "good")
    kv = file.array("kv", "u1")
    kv[:] = np.random.default_rng(1).permutation(kv.reshape(-1)).reshape(kv.shape) & 0x3F  # no fp16 of them is infinite
    file.put("kv", "U8", kv)
    file.write(tmp_path / "poison")
    with decoder.session() as alone:
        alone.prefill([PROMPT, PICTURE, END, END])
        honest = alone.logits()
    with decoder.load_session(tmp_path / "poison") as poisoned:
        poisoned.truncate(343)
        poisoned.prefill([END])  # a later position, computed on those of the file
        assert not np.array_equal(poisoned.logits(), honest)
        continued(poisoned)
        assert decoder.prefix_cache.pages == 0
    with decoder.session(reuse="auto") as session:
        session.prefill([PROMPT, PICTURE, END, END])
        assert session.counters.reused_positions == 0
        np.testing.assert_array_equal(session.logits(), honest)
    with decoder.load_session(tmp_path / "good") as loaded:  # nor does it take what others have left
        loaded.truncate(0)
        loaded.prefill([PROMPT, PICTURE, END, END])
        assert loaded.counters.reused_positions == 0
        np.testing.assert_array_equal(loaded.logits(), honest)


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


def change(name: str, dtype: str, typestring: str, place: int, value: Any) -> Callable[[SavedFile], None]:
    def apply(file: SavedFile) -> None:
        array = file.array(name, dtype)
        array.reshape(-1)[place] = value
        file.put(name, typestring, array)

    return apply


def shorten(name: str, dtype: str, typestring: str) -> Callable[[SavedFile], None]:
    return lambda file: file.put(name, typestring, file.array(name, dtype)[:-1])


HOSTILE: list[tuple[Callable[[SavedFile], Any], str]] = [
    (change("tokens", "<i4", "I32", 7, CONFIG.vocab_size), f"position 7 has the token {CONFIG.vocab_size}"),
    (change("tokens", "<i4", "I32", 354, 2**31 - 1), "outside of the vocabulary"),
    (change("tokens", "<i4", "I32", 0, -2), "outside of the vocabulary"),
    (change("tokens", "<i4", "I32", 0, -1), "the key of position 0"),
    (change("tokens", "<i4", "I32", 310, 5), "the key of position 310"),
    (change("keys", "<u8", "U64", 2 * 9, 10**6), "the key of position 9"),
    (change("keys", "<u8", "U64", 2 * 9 + 1, 1), "the key of position 9"),
    (change("logits", "<f4", "F32", 3, np.nan), "NaN or an infinity"),
    (change("logits", "<f4", "F32", 3, -np.inf), "NaN or an infinity"),
    (shorten("tokens", "<i4", "I32"), "is damaged"),
    (shorten("keys", "<u8", "U64"), "is damaged"),
    (shorten("kv", "u1", "U8"), "is damaged"),
    (shorten("logits", "<f4", "F32"), "is damaged"),
    (lambda file: file.put("tokens", "I64", file.array("tokens", "<i4").astype("<i8")), "is damaged"),
    (lambda file: file.put("tokens", "I32", file.array("tokens", "<i4").reshape(1, -1)), "is damaged"),
    (lambda file: file.tensors.pop("keys"), "is damaged"),
    (lambda file: file.tensors.pop("kv"), "is damaged"),
    (lambda file: file.tensors.pop("note"), "is damaged"),
    (lambda file: file.put("\x1b[2J", "U8", np.zeros(3, np.uint8)), r"a tensor '\?\[2J', which is unknown"),
    (lambda file: file.metadata.update(reuse="on"), "its metadata have 'reuse', which is unknown"),
    (lambda file: file.metadata.update(context_length="0"), "is damaged"),
    (lambda file: file.metadata.pop("prefill_chunk"), "is damaged"),
    (lambda file: file.metadata.update(context_length="-5"), "is damaged"),
    (lambda file: file.metadata.update(kv_precision="int4"), "is damaged"),
    (lambda file: file.metadata.update(context_length="354"), "has 355 positions, but the context holds 354"),
    (lambda file: file.metadata.update(context_length="999999999"), "context_length is 999999999"),
    (lambda file: file.metadata.update(prefill_chunk="999999999"), "prefill_chunk is 999999999"),
]


def test_what_a_stranger_wrote_is_checked_before_anything_is_taken_over(decoder: Decoder, tmp_path: Path) -> None:
    saved(decoder, tmp_path / "good")
    SavedFile(tmp_path / "good").write(tmp_path / "same")
    decoder.load_session(tmp_path / "same").close()  # the checksum above is the right one
    for hostile, sentence in HOSTILE:
        file = SavedFile(tmp_path / "good")
        hostile(file)
        file.write(tmp_path / "file")
        with pytest.raises(InputError, match=sentence):
            decoder.load_session(tmp_path / "file")
    with decoder.session(reuse="auto") as session:  # a new session finds nothing of them
        session.prefill([PROMPT, PICTURE, END])
        assert session.counters.reused_positions == 0


def test_header_larger_than_a_session_needs_is_not_read(decoder: Decoder, tmp_path: Path) -> None:
    nested = ('{"' + 600 * "k" + '":') * 60 + "[" + "1," * 20_000 + "1]" + 60 * "}"
    header = f'{{"__metadata__":{{"format":"valley2-session"}},"tokens":{nested}}}'.encode()
    (tmp_path / "file").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match=r"has a header of 7\d+ bytes, but such a file needs less than 65536"):
        decoder.load_session(tmp_path / "file")


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


def test_notes_that_are_no_text_are_refused(decoder: Decoder, tmp_path: Path) -> None:
    with decoder.session() as session:
        for note in ("half of a pair \ud800", "a\0b"):
            with pytest.raises(InputError, match="must be text"):
                session.save(tmp_path / "file", note)
        with pytest.raises(InputError, match="at most 16777216 bytes"):
            session.save(tmp_path / "file", "n" * (2**24 + 1))
        assert not list(tmp_path.iterdir())
        session.save(tmp_path / "good", "a note")
    for content in (b"\xff\xfe", b"a\0b"):
        file = SavedFile(tmp_path / "good")
        file.put("note", "U8", np.frombuffer(content, np.uint8))
        file.write(tmp_path / "file")
        with pytest.raises(InputError, match="is damaged"):
            decoder.load_session(tmp_path / "file")


def test_paths_that_are_no_utf8_work_and_a_nul_is_refused(decoder: Decoder, tmp_path: Path) -> None:
    with decoder.session() as session:
        with pytest.raises(InputError, match="holds a NUL"):
            session.save(Path("a\0b"))
        if sys.platform == "linux":
            path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
            session.save(path, "here")
            with decoder.load_session(path) as loaded:
                assert loaded.note == "here"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX names and locks")
def test_leftovers_of_killed_saves_go_and_nothing_else(decoder: Decoder, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "file.part-Ab3dEf").write_text("of a save that was killed")
    others = ["file.part-Ab3dE", "file.part-Ab3dEfg", "other.part-Ab3dEf", "file.part"]
    for name in others:
        (tmp_path / name).write_text("somebody else's")
    (tmp_path / "file.part-Folder").mkdir()
    (tmp_path / "file.part-Linked").symlink_to(tmp_path / "file.part")
    with (tmp_path / "file.part-InWork").open("w") as in_work, decoder.session() as session:
        fcntl.flock(in_work, fcntl.LOCK_EX)
        session.save(tmp_path / "file")
    kept = {"file", "file.part-Folder", "file.part-Linked", "file.part-InWork", *others}
    assert {path.name for path in tmp_path.iterdir()} == kept


FULL_DISK = """
import resource, sys
import numpy as np
from pathlib import Path
from valley2_edge.errors import InputError
from valley2_edge.runtime.core.decoder import Decoder
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
