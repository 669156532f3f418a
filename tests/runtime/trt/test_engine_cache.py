"""The cache of TensorRT's engines, which are programs: what somebody else may have put there counts as absent."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from valley2_edge.runtime.devices.cuda_driver import Gpu
from valley2_edge.runtime.trt.cache import EngineCache, EngineKey
from valley2_edge.user_data import ABANDONED_SECONDS

KEY = EngineKey("siglip", "graph", "fp16", 9, "8.6", "tensorrt_rtx", "1.7.1", "GeForce", "580.1")
GPU = Gpu("GeForce", "8.6", "580.1")
ENGINE = b"what TensorRT built" * 100


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VALLEY2_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def linked(path: Path) -> None:
    target = path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(target)


def head_changed(path: Path, **changes: object) -> None:
    magic, head, rest = path.read_bytes().split(b"\n", 2)
    path.write_bytes(b"\n".join((magic, json.dumps({**json.loads(head), **changes}).encode(), rest)))


HARMS: dict[str, Callable[[Path], object]] = {
    "a bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"?"),
    "terabyte": lambda path: os.truncate(path, 1 << 40),
    "empty": lambda path: path.write_bytes(b""),
    "line without end": lambda path: path.write_bytes(b"valley2 engine 1\n" + b"[" * 200_000),
    "nested head": lambda path: path.write_bytes(b"valley2 engine 1\n" + b"[" * 2000 + b"\n"),
    "head of another type": lambda path: path.write_bytes(b"valley2 engine 1\n[1]\nx"),
    "fields of another type": lambda path: head_changed(path, component=["siglip"], graph={"a": 1}),
    "size of another type": lambda path: head_changed(path, bytes="many"),
    "digest of another type": lambda path: head_changed(path, sha256=7),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "directory": lambda path: (path.unlink(), path.mkdir()),
    "link": linked,
    "others may write": lambda path: path.chmod(0o666),
}


@pytest.mark.parametrize("harm", HARMS)
def test_engine_that_is_not_as_it_was_written_is_absent(harm: str) -> None:
    cache = EngineCache()
    path = cache.store(KEY, ENGINE)
    assert cache.find(KEY) == ENGINE
    HARMS[harm](path)
    assert cache.find(KEY) is None
    assert all(isinstance(entry.key.graph, str) for entry in cache.entries())
    if harm != "directory":
        cache.store(KEY, ENGINE)
        assert cache.find(KEY) == ENGINE


@pytest.mark.parametrize("harm", HARMS)
def test_kernels_that_are_not_as_they_were_written_are_absent(data: Path, harm: str) -> None:
    cache = EngineCache()
    cache.store_kernels(KEY, GPU, b"compiled")
    assert cache.kernels(KEY, GPU) == b"compiled"
    (path,) = (data / "engines").glob("*.kernels")
    HARMS[harm](path)
    assert cache.kernels(KEY, GPU) == b""


def test_engine_of_another_key_under_this_name_is_absent() -> None:
    cache = EngineCache()
    other = EngineKey("eagle", "graph", "fp16", 9, "8.6", "tensorrt_rtx", "1.7.1", "GeForce", "580.1")
    cache.store(other, ENGINE).rename(cache.directory / KEY.file_name)
    assert cache.find(KEY) is None


def test_engine_of_another_user_is_absent(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = EngineCache()
    path = cache.store(KEY, ENGINE)
    owner = path.stat().st_uid
    if owner == 0:  # the administrator's files are believed, so that nobody else's must be made
        os.chown(path, 4000, -1)
        os.chown(data / "engines", 4000, -1)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1000)
    assert cache.find(KEY) is None and cache.entries() == []
    with pytest.raises(PermissionError, match="not a directory of this user's own"):
        cache.store(KEY, ENGINE)


def test_directory_that_is_a_link_is_not_written_through(data: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    data.mkdir()
    (data / "engines").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="not a directory of this user's own"):
        EngineCache().store(KEY, ENGINE)
    with pytest.raises(OSError, match="symbolic link"):
        EngineCache().clear()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_directories_and_files_are_for_the_user_alone(data: Path) -> None:
    before = os.umask(0)
    try:
        path = EngineCache().store(KEY, ENGINE)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(one.stat().st_mode) for one in (data, data / "engines", path)] == [0o700, 0o700, 0o600]
    (data / "engines").chmod(0o777)
    EngineCache().store(KEY, ENGINE)
    assert stat.S_IMODE((data / "engines").stat().st_mode) == 0o700


def test_writer_that_is_killed_leaves_the_old_engine_and_its_rest_goes(data: Path) -> None:
    cache = EngineCache()
    cache.store(KEY, ENGINE)
    program = (
        "import os, signal, sys; from pathlib import Path; "
        "sys.path.insert(0, sys.argv[1]); import test_engine_cache as t; "
        "Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL); "
        "t.EngineCache().store(t.KEY, b'new')"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(Path(__file__).parent)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (rest,) = (data / "engines").glob(".*")
    assert cache.find(KEY) == ENGINE and len(cache.entries()) == 1
    cache.store(KEY, ENGINE)
    assert rest.exists()  # it may be another process that is still writing
    long_ago = time.time() - 2 * ABANDONED_SECONDS
    os.utime(rest, (long_ago, long_ago))
    cache.store(KEY, ENGINE)
    assert not rest.exists() and cache.find(KEY) == ENGINE


def test_clear_counts_links_and_leaves_what_they_name(data: Path, tmp_path: Path) -> None:
    cache = EngineCache()
    cache.store(KEY, ENGINE)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_bytes(bytes(1000))
    (data / "engines" / "folder").symlink_to(kept)
    (data / "engines" / "link.engine").symlink_to(kept / "file")
    files, size = cache.clear()
    assert files == 3 and size < 3000 and (kept / "file").read_bytes() == bytes(1000)
    assert not (data / "engines").exists()
