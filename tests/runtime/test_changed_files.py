"""Files of a model that change while they are in use, or between their check and their opening."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from decoder_files import TinyConfig, random_weights, write_decoder

from valley2_edge.errors import BundleError
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.generation import GenerateOptions

CONFIG = TinyConfig(num_hidden_layers=2)
PROMPT = np.arange(20, dtype=np.int32)
WEIGHTS, EMBEDDINGS = "decoder.safetensors", "embeddings.safetensors"

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a mapped file as it is")


@dataclass(frozen=True)
class Stamp:
    """What valley2_edge knows of a file that it has hashed."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of the file that is there now."""
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_decoder(tmp_path / "decoder", CONFIG, random_weights(CONFIG), "fp32")
    return tmp_path / "decoder"


@needs_posix
@pytest.mark.parametrize("name", [WEIGHTS, EMBEDDINGS])
@pytest.mark.parametrize("left", [0, 1, 4096, -1], ids=["nothing", "a byte", "a page", "all but a byte"])
def test_file_that_becomes_shorter_ends_the_call_in_one_sentence(directory: Path, name: str, left: int) -> None:
    with Decoder(directory, threads=2) as decoder, decoder.session() as session:
        session.prefill([PROMPT])
        os.truncate(directory / name, left if left >= 0 else (directory / name).stat().st_size - 1)
        decoder.trim()  # the pages that were read are not there any more
        with pytest.raises(BundleError, match=f"{name}' was changed or became shorter while it was in use"):
            session.generate(GenerateOptions(max_new_tokens=3))
        with pytest.raises(BundleError, match=name):
            session.prefill([PROMPT])
        with pytest.raises(BundleError, match=name):
            decoder.embed(PROMPT)


@needs_posix
def test_file_that_is_written_to_ends_the_call(directory: Path) -> None:
    with Decoder(directory) as decoder, decoder.session() as session:
        session.prefill([PROMPT])
        with (directory / WEIGHTS).open("r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(b"other weights")
        os.utime(directory / WEIGHTS, ns=(0, 1))  # the clock of a file system is coarse
        with pytest.raises(BundleError, match="was changed"):
            session.generate(GenerateOptions(max_new_tokens=3))


@needs_posix
def test_file_that_is_replaced_by_renaming_does_no_harm(directory: Path) -> None:
    with Decoder(directory) as decoder, decoder.session() as before, decoder.session() as after:
        before.prefill([PROMPT])
        (directory / "new").write_bytes(b"another one")
        (directory / "new").rename(directory / WEIGHTS)
        after.prefill([PROMPT])
        np.testing.assert_array_equal(after.logits(), before.logits())


def swapped(path: Path) -> None:
    shutil.copy2(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)


def touched(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1000))


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize(
    "change", [pytest.param(swapped, marks=needs_posix), touched, longer], ids=["swapped", "touched", "longer"]
)
@pytest.mark.parametrize("name", [WEIGHTS, EMBEDDINGS])
def test_another_file_than_the_checked_one_is_not_opened(
    directory: Path, name: str, change: Callable[[Path], None]
) -> None:
    weights, embeddings = Stamp.of(directory / WEIGHTS), Stamp.of(directory / EMBEDDINGS)
    Decoder(directory, decoder_stamp=weights, embeddings_stamp=embeddings).close()
    change(directory / name)
    with pytest.raises(BundleError, match=f"{name}' was changed after it had been checked"):
        Decoder(directory, decoder_stamp=weights, embeddings_stamp=embeddings)


@needs_posix
@pytest.mark.parametrize("field", ["inode", "device", "ctime_ns", "mtime_ns", "size"])
def test_every_part_of_a_stamp_counts(directory: Path, field: str) -> None:
    stamp = Stamp.of(directory / WEIGHTS)
    with pytest.raises(BundleError, match="was changed"):
        Decoder(directory, decoder_stamp=replace(stamp, **{field: getattr(stamp, field) + 1}))


OTHER_SIGNALS = """
import os, signal, sys
from pathlib import Path
from valley2_edge.runtime.core.decoder import Decoder
caught = []
if sys.argv[2] == "handled":
    signal.signal(signal.SIGBUS, lambda number, frame: caught.append(number))
with Decoder(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGBUS)
    print("alive", len(caught), flush=True)
os.kill(os.getpid(), signal.SIGBUS)
print("alive", len(caught), flush=True)
"""


@needs_posix
def test_other_bus_errors_go_where_they_went_before(directory: Path) -> None:
    def run(how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", OTHER_SIGNALS, str(directory), how]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("handled").stdout == "alive 1\nalive 2\n"
    unhandled = run("unhandled")
    assert (unhandled.returncode, unhandled.stdout) == (-signal.SIGBUS, "")


FILE_OF_ANOTHER_LIBRARY = """
import mmap, os, sys
from pathlib import Path
from valley2_edge.runtime.core.decoder import Decoder
path = Path(sys.argv[2])
path.write_bytes(bytes(3 * mmap.PAGESIZE))
with Decoder(Path(sys.argv[1])), path.open("rb") as file:
    view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    os.truncate(path, mmap.PAGESIZE)
    print(view[0], flush=True)
    print(view[-1], flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the table of mappings")
def test_file_of_another_library_that_becomes_shorter_is_named(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "graph.data"
    command = [sys.executable, "-c", FILE_OF_ANOTHER_LIBRARY, str(directory), str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGBUS, "0\n")
    assert ended.stderr == (
        f"valley2-edge: the file '{path}' became shorter while it was in use, and the process cannot go on.\n"
    )


@needs_posix
def test_pipe_in_the_place_of_a_file_is_refused_at_once(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    os.mkfifo(directory / WEIGHTS)
    with pytest.raises(BundleError, match="is not a file"):
        Decoder(directory)
