"""Makes a bundle's directory: atomic, resumable, and never half written under its final name."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from valley2_edge.bundle import MANIFEST_NAME, FileEntry, Manifest, read_manifest, sha256_of_file
from valley2_edge.bundle_files import check_name
from valley2_edge.errors import BudgetError, BundleError, ExportError, Valley2Error
from valley2_edge.output_lock import output_lock
from valley2_edge.outside_files import read_json

PROGRESS_NAME = "progress.json"
WORKSPACE_NAME = "workspace"
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}


class BundleWriter:
    """Collects finished components in a partial directory and renames it when the bundle is whole.

    The partial directory is `.NAME.partial` beside the output. A process that is killed leaves it behind; the next
    writer with the same fingerprint keeps its finished components, any other discards it. An error removes it: what an
    error left is of no use, and may be what fills the disk. Use it in a `with` block.

    Args:
        output: The bundle's directory.
        fingerprint: Identity of the checkpoint and the options; equal fingerprints make equal bundles.
        overwrite: Replace a bundle that is already there.

    Raises:
        ExportError: Something is there already, and it may not be replaced; or another process writes there.
    """

    def __init__(self, output: Path, fingerprint: str, *, overwrite: bool = False) -> None:
        self.output = output
        self.directory = output.with_name(f".{output.name}.partial")
        self._replaced = output.with_name(f".{output.name}.replaced")
        self._fingerprint = fingerprint
        self._overwrite = overwrite
        self._finished: dict[str, dict[str, Any]] = {}
        self._withdrawn: set[str] = set()
        self._lock = ExitStack()

    def __enter__(self) -> BundleWriter:
        with ExitStack() as entered, self._clear_errors():
            entered.enter_context(output_lock(self.output))
            self._recover_replaced()
            self._check_output()
            self._finished = self._read_progress()
            if not self._finished and self.directory.exists():
                shutil.rmtree(self.directory)
            self.directory.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
            self._lock = entered.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if isinstance(error, (Valley2Error, OSError)):
                shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def workspace(self) -> Path:
        """A directory in which a long component keeps its own steps: it survives a kill, and goes when it is published.

        Whoever uses it makes it. What an earlier run left in it had the same fingerprint.
        """
        return self.directory / WORKSPACE_NAME

    @property
    def finished_bytes(self) -> int:
        """Bytes that are kept from an earlier run."""
        kept: int = sum(entry["size"] for component in self._finished.values() for entry in component["files"].values())
        return kept + sum(path.stat().st_size for path in self.workspace.rglob("*") if path.is_file())

    def check_space(self, needed_bytes: int) -> None:
        """Fails before anything large is written when the disk cannot hold the bundle.

        Args:
            needed_bytes: Of the whole bundle; what is finished already is subtracted.

        Raises:
            BudgetError: Not enough is free.
        """
        missing = needed_bytes - self.finished_bytes
        free = shutil.disk_usage(self.directory).free
        if missing > free:
            raise BudgetError(
                f"the bundle needs {_gigabytes(missing)} more on the disk of {self.output.absolute().parent}, "
                f"which has {_gigabytes(free)} free: free some space or choose another --output"
            )

    def component(self, name: str, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Makes one component, unless an earlier run has finished it.

        Args:
            name: The component.
            make: Writes its files below the directory that it is given and returns facts about it, as plain JSON.

        Returns:
            What `make` returned, now or in the earlier run.

        Raises:
            BudgetError: The disk is full.
            ExportError: A file cannot be written.
        """
        if name in self._finished:
            facts: dict[str, Any] = self._finished[name]["facts"]
            return facts
        with self._clear_errors():
            before = set(self._files())
            facts = make(self.directory)
            entries = {}
            for path in sorted(set(self._files()) - before):
                _flush(path)
                entries[path.relative_to(self.directory).as_posix()] = _entry(path).model_dump()
            self._finished[name] = {"files": entries, "facts": facts}
            self._write_json(PROGRESS_NAME, {"fingerprint": self._fingerprint, "components": self._finished})
        return facts

    def withdraw(self, name: str) -> None:
        """Leaves a finished component's file out of the bundle; until then it stays for the components that need it.

        Args:
            name: Its path in the bundle.
        """
        self._withdrawn.add(name)

    def files(self) -> dict[str, FileEntry]:
        """Every file of the finished components that was not withdrawn, by its path in the bundle."""
        entries = {
            name: FileEntry(**entry)
            for component in self._finished.values()
            for name, entry in component["files"].items()
            if name not in self._withdrawn
        }
        return dict(sorted(entries.items()))

    def publish(self, manifest: Manifest) -> Path:
        """Writes the manifest and gives the directory its final name.

        Args:
            manifest: Lists the files that `files` returned.

        Returns:
            The bundle's directory.

        Raises:
            BudgetError: The disk is full.
            ExportError: A file cannot be written, or the output has appeared in the meantime.
        """
        with self._clear_errors():
            self._write_json(MANIFEST_NAME, manifest.model_dump(mode="json"))
            self._check_output()
            (self.directory / PROGRESS_NAME).unlink(missing_ok=True)
            for name in self._withdrawn:
                (self.directory / name).unlink()
            if self.workspace.exists():
                shutil.rmtree(self.workspace)
            for directory in (self.directory, *(path for path in self.directory.rglob("*") if path.is_dir())):
                _flush_directory(directory)
            if self.output.exists():
                self.output.replace(self._replaced)
            self.directory.replace(self.output)
            _flush_directory(self.output.absolute().parent)
        shutil.rmtree(self._replaced, ignore_errors=True)
        return self.output

    def _check_output(self) -> None:
        if not self.output.exists():
            return
        try:
            read_manifest(self.output)
        except BundleError:
            if (self.output / MANIFEST_NAME).is_file() and self._overwrite:
                return  # a bundle of another version or a damaged one
            raise ExportError(f"{self.output} exists and is not a bundle: choose another --output") from None
        if not self._overwrite:
            raise ExportError(f"{self.output} exists: choose another --output or pass --overwrite")

    def _recover_replaced(self) -> None:
        """Undoes the first half of a replacement that a killed process began."""
        if not self._replaced.exists():
            return
        if self.output.exists():
            shutil.rmtree(self._replaced)
        else:
            self._replaced.replace(self.output)

    def _read_progress(self) -> dict[str, dict[str, Any]]:
        """Components of an earlier run that can be kept: same fingerprint, every file as it was written."""
        try:
            content = read_json(self.directory / PROGRESS_NAME, BundleError)
            if content["fingerprint"] != self._fingerprint:
                return {}
            components: dict[str, dict[str, Any]] = dict(content["components"])
            return {name: component for name, component in components.items() if self._is_intact(component)}
        except (BundleError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _is_intact(self, component: dict[str, Any]) -> bool:
        for name, entry in component["files"].items():
            check_name(name)
            path = self.directory / name
            if not path.is_file() or path.stat().st_size != entry["size"] or sha256_of_file(path) != entry["sha256"]:
                return False
        return True

    def _remove_unfinished(self) -> None:
        kept = {self.directory / name for component in self._finished.values() for name in component["files"]}
        for path in self._files():
            if path not in kept:
                path.unlink()

    def _files(self) -> Iterator[Path]:
        for path in self.directory.rglob("*"):
            if path.is_file() and path != self.directory / PROGRESS_NAME and self.workspace not in path.parents:
                yield path

    def _write_json(self, name: str, content: object) -> None:
        path = self.directory / name
        temporary = path.with_name(f"{name}.new")
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
        _flush(temporary)
        temporary.replace(path)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self.directory
            if error.errno in _DISK_FULL:
                raise BudgetError(
                    f"the disk of {self.output.absolute().parent} is full: nothing was kept of the export; "
                    "free some space or choose another --output"
                ) from error
            raise ExportError(f"{where} cannot be written: {error.strerror or error}") from error


def _entry(path: Path) -> FileEntry:
    return FileEntry(size=path.stat().st_size, sha256=sha256_of_file(path))


def _flush(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _flush_directory(path: Path) -> None:
    # Windows has no way to flush a directory, and does not need one for a rename to be atomic.
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
