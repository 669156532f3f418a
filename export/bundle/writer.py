"""Makes a bundle's directory: atomic, resumable, and never half written under its final name."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from valley2_edge.bundle import FileEntry, Manifest, read_manifest, sha256_of_file
from valley2_edge.bundle_files import MANIFEST_NAME, check_name
from valley2_edge.byte_count import format_bytes
from valley2_edge.errors import BudgetError, BundleError, Cancelled, ExportError, Valley2Error
from valley2_edge.export.control import ExportControl
from valley2_edge.output_lock import output_lock
from valley2_edge.outside_files import read_json

PROGRESS_NAME = "progress.json"
WORKSPACE_NAME = "workspace"
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}


class BundleWriter:
    """Collects finished components in a partial directory and renames it when the bundle is whole.

    The partial directory is `.NAME.partial` beside the output. A process that is killed leaves it behind, and one that
    is cancelled leaves the components that it has finished. The next writer with the same fingerprint keeps the
    finished components; a writer with another fingerprint discards them. An error removes the partial directory: what
    an error left is of no use, and may be what fills the disk. Use the writer in a `with` block.

    Args:
        output: The bundle's directory.
        fingerprint: Identity of the checkpoint and the options; equal fingerprints make equal bundles.
        overwrite: Whether a bundle that is already there may be replaced.
        control: Stops the export from another thread; None means that nothing does.

    Raises:
        ExportError: Something is there already, and it may not be replaced; or another process writes there.
        Cancelled: The export was stopped.
    """

    def __init__(
        self, output: Path, fingerprint: str, *, overwrite: bool = False, control: ExportControl | None = None
    ) -> None:
        self.output = output
        self.control = control or ExportControl()
        self.directory = output.with_name(f".{output.name}.partial")
        self._replaced = output.with_name(f".{output.name}.replaced")
        self._fingerprint = fingerprint
        self._overwrite = overwrite
        self._finished: dict[str, dict[str, Any]] = {}
        self._withdrawn: set[str] = set()
        self._entered = self._published = False
        self._lock = ExitStack()
        self.control.note_place(output, self.directory, self.tidy)

    def __enter__(self) -> BundleWriter:
        with ExitStack() as entered, self._clear_errors():
            entered.enter_context(output_lock(self.output))
            self._recover_replaced()
            check_output(self.output, overwrite=self._overwrite)
            self._finished = self._read_progress()
            if not self._finished and self.directory.exists():
                shutil.rmtree(self.directory)
            self.directory.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
            self._lock = entered.pop_all()
        self._entered = True
        self.control.note_components(list(self._finished))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if isinstance(error, (Cancelled, KeyboardInterrupt)):
                self.tidy()
            elif isinstance(error, (Valley2Error, OSError)):
                shutil.rmtree(self.directory, ignore_errors=True)

    def tidy(self) -> None:
        """Removes what a later run cannot use: unfinished files, and the partial directory when nothing is finished."""
        if not self._entered:
            return  # what an earlier run finished is not known yet
        with self._lock:
            if self._published:
                shutil.rmtree(self._replaced, ignore_errors=True)
                return
            with contextlib.suppress(OSError):
                self._remove_unfinished()
            if not self._finished and not self.workspace.exists():
                shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def workspace(self) -> Path:
        """A directory in which a component that takes long keeps its finished steps.

        It survives a kill and is removed when the bundle is published. The component that uses it has to make it. What
        an earlier run left in it was made with the same fingerprint.
        """
        return self.directory / WORKSPACE_NAME

    @property
    def finished_bytes(self) -> int:
        """Number of bytes that are kept from an earlier run."""
        kept: int = sum(entry["size"] for component in self._finished.values() for entry in component["files"].values())
        return kept + sum(path.stat().st_size for path in self.workspace.rglob("*") if path.is_file())

    def check_space(self, needed_bytes: int) -> None:
        """Fails before anything large is written when the disk cannot hold the bundle.

        Args:
            needed_bytes: Size of the whole bundle; what is finished already is subtracted.

        Raises:
            BudgetError: The disk has not enough free space.
        """
        missing = needed_bytes - self.finished_bytes
        free = shutil.disk_usage(self.directory).free
        if missing > free:
            raise BudgetError(
                f"the bundle needs {format_bytes(missing)} more on the disk of {self.output.absolute().parent}, "
                f"which has {format_bytes(free)} free: free some space or choose another --output"
            )

    def component(self, name: str, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Makes one component, unless an earlier run has finished it.

        Args:
            name: The component's name.
            make: Writes the component's files below the directory that it is given, and returns facts about the
                component as plain JSON.

        Returns:
            What `make` returned, now or in the earlier run.

        Raises:
            BudgetError: The disk is full.
            ExportError: A file cannot be written.
            Cancelled: The export was stopped.
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
                entries[path.relative_to(self.directory).as_posix()] = self._entry(path).model_dump()
            finished = {**self._finished, name: {"files": entries, "facts": facts}}
            with self.control.finishing():
                self._write_json(PROGRESS_NAME, {"fingerprint": self._fingerprint, "components": finished})
                self._finished = finished
                self.control.note_components(list(finished))
        return facts

    def withdraw(self, name: str) -> None:
        """Leaves a file of a finished component out of the published bundle.

        Until the bundle is published the file stays for the components that need it.

        Args:
            name: The file's path in the bundle.
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
            manifest: The manifest, which lists the files that `files` returned.

        Returns:
            The bundle's directory.

        Raises:
            BudgetError: The disk is full.
            ExportError: A file cannot be written, or the output has appeared in the meantime.
            Cancelled: The export was stopped.
        """
        with self._clear_errors(), self.control.finishing():
            self._write_json(MANIFEST_NAME, manifest.model_dump(mode="json"))
            check_output(self.output, overwrite=self._overwrite)
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
            self.control.note_published()
            self._published = True
            _flush_directory(self.output.absolute().parent)
        shutil.rmtree(self._replaced, ignore_errors=True)
        return self.output

    def _recover_replaced(self) -> None:
        """Undoes the first half of a replacement that a killed process began."""
        if not self._replaced.exists():
            return
        if self.output.exists():
            shutil.rmtree(self._replaced)
        else:
            self._replaced.replace(self.output)

    def _read_progress(self) -> dict[str, dict[str, Any]]:
        """Components of an earlier run that can be kept: same fingerprint, and every file as it was written."""
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
            if not path.is_file() or path.stat().st_size != entry["size"] or self._hash(path) != entry["sha256"]:
                return False
        return True

    def _remove_unfinished(self) -> None:
        kept = {self.directory / name for component in self._finished.values() for name in component["files"]}
        for path in self._files():
            if path not in kept:
                path.unlink(missing_ok=True)

    def _files(self) -> Iterator[Path]:
        for path in self.directory.rglob("*"):
            if path.is_file() and path != self.directory / PROGRESS_NAME and self.workspace not in path.parents:
                yield path

    def _entry(self, path: Path) -> FileEntry:
        return FileEntry(size=path.stat().st_size, sha256=self._hash(path))

    def _hash(self, path: Path) -> str:
        return sha256_of_file(path, lambda _count: self.control.check())

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


def check_output(output: Path, *, overwrite: bool = False) -> None:
    """Fails where the output exists and may not be replaced.

    Args:
        output: The bundle's directory.
        overwrite: Whether a bundle that is there may be replaced.

    Raises:
        ExportError: The output exists, and it is not a bundle or may not be replaced.
    """
    if not output.exists():
        return
    try:
        read_manifest(output)
    except BundleError:
        if (output / MANIFEST_NAME).is_file() and overwrite:
            return  # a bundle of another version or a damaged one
        raise ExportError(f"{output} exists and is not a bundle: choose another --output") from None
    if not overwrite:
        raise ExportError(f"{output} exists: choose another --output or pass --overwrite")


def check_place(output: Path, source: Path | None) -> None:
    """Fails where a directory cannot be made, before anything is loaded.

    Args:
        output: The directory that is to be made.
        source: The directory that it is made from; neither may lie inside the other. None means that the source is not
            on this machine.

    Raises:
        ExportError: One of the two lies inside the other, or the output cannot be written.
    """
    if source is not None:
        ours, theirs = output.resolve(), source.resolve()
        if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
            raise ExportError(f"{output} and {source} lie inside one another: choose another place")
    if output.exists():
        return
    above = next(path for path in output.absolute().parents if path.exists())
    if not above.is_dir():
        raise ExportError(f"{above} is a file, so {output} cannot be made: choose another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ExportError(
            f"{above} may not be written, so {output} cannot be made: choose another place for the output"
        )


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
