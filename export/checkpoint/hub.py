"""Finds a checkpoint: a directory as it is, one that comes with the package, or one on the Hugging Face hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import DryRunFileInfo, constants, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm

from valley2_edge.byte_count import format_bytes
from valley2_edge.errors import BudgetError, CheckpointError
from valley2_edge.export.checkpoint.local import CONFIG_NAME, DEFAULT_CHECKPOINT, local_checkpoint
from valley2_edge.export.control import Announce, Progress

NEEDED_FILES = [
    CONFIG_NAME,
    "generation_config.json",
    "vision_geometry.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
    "vocab.json",
    "merges.txt",
]


# The base class of the errors of the hub client and of its HTTP library, which changes with the client's version.
_TRANSPORT_ERRORS: tuple[type[Exception], ...] = (OSError, HfHubHTTPError.__bases__[0])


def resolve_checkpoint(
    name_or_path: str | Path = DEFAULT_CHECKPOINT,
    revision: str | None = None,
    progress: Progress | None = None,
    announce: Announce | None = None,
) -> Path:
    """Finds the directory of a checkpoint, and downloads the checkpoint when it is given as a hub id.

    Only the files that an export needs are fetched; what is there already is kept, and an interrupted file is resumed.

    Args:
        name_or_path: A directory, a checkpoint that comes with the package (nano), or a hub id OWNER/NAME.
        revision: A branch, tag or commit of the hub repository.
        progress: Called with "download", the number of bytes fetched and the number of bytes to fetch.
        announce: Called with a sentence before a download, and when an offline copy is used.

    Returns:
        The directory.

    Raises:
        CheckpointError: The directory, hub id or revision does not exist, is gated, or the hub cannot be reached.
        BudgetError: The disk cannot hold the files.
    """
    local = local_checkpoint(name_or_path, revision)
    if local is not None:
        return local
    name = str(name_or_path)
    say = announce or (lambda sentence: None)
    try:
        plan = _plan(name, revision)
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name} is gated: accept its terms on the hub and log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{name} has no revision {revision} on the hub.") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"The hub has no model {name}, or it is private and you are not logged in (`hf auth login`)."
        ) from error
    except _TRANSPORT_ERRORS as error:
        return _offline_copy(name, revision, say, error)
    return _fetch(name, plan, progress, say)


def _plan(name: str, revision: str | None) -> list[DryRunFileInfo]:
    try:
        plan: list[DryRunFileInfo] = snapshot_download(
            name, revision=revision, allow_patterns=NEEDED_FILES, dry_run=True, tqdm_class=_silent_bar(None)
        )
    except DryRunError as error:
        # The client wraps the error that really happened
        if isinstance(error.__cause__, Exception):
            raise error.__cause__ from error
        raise
    return plan


def _fetch(name: str, plan: list[DryRunFileInfo], progress: Progress | None, say: Announce) -> Path:
    if not any(file.filename == "config.json" for file in plan):
        raise CheckpointError(f"{name} on the hub is not a checkpoint: it has no config.json.")
    missing = sum(file.file_size or 0 for file in plan if file.will_download)
    cache = Path(constants.HF_HUB_CACHE).expanduser()
    free = _free_bytes(cache)
    if missing > free:
        raise BudgetError(
            f"{name} needs {format_bytes(missing)} in {cache}, where {format_bytes(free)} are free; "
            "make room or point HF_HOME at another disk."
        )
    if missing:
        say(f"Fetching {format_bytes(missing)} of {name} into {cache}, where {format_bytes(free)} are free.")

    def on_bytes(done: int) -> None:
        if progress is not None:
            progress("download", min(done, missing), missing)

    try:
        path = snapshot_download(
            name, revision=plan[0].commit_hash, allow_patterns=NEEDED_FILES, tqdm_class=_silent_bar(on_bytes)
        )
    except _TRANSPORT_ERRORS as error:
        raise CheckpointError(f"Fetching {name} stopped ({_first_line(error)}); run it again to resume.") from error
    on_bytes(missing)
    return Path(path)


def _offline_copy(name: str, revision: str | None, say: Announce, reason: Exception) -> Path:
    try:
        path = snapshot_download(name, revision=revision, allow_patterns=NEEDED_FILES, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"The hub cannot be reached ({_first_line(reason)}) and {name} has not been fetched before; "
            "connect, or name a directory that holds the checkpoint."
        ) from error
    say(f"The hub cannot be reached ({_first_line(reason)}); using the copy of {name} that was fetched before.")
    return Path(path)


def _silent_bar(on_bytes: Callable[[int], None] | None) -> type[tqdm]:
    """A progress bar that prints nothing; the furthest of the download's byte bars is reported."""

    class SilentBar(tqdm):
        furthest = 0

        def __init__(self, *args: Any, **options: Any) -> None:
            self.counts_bytes = options.get("unit") == "B"
            self.done = int(options.get("initial") or 0)
            super().__init__(*args, **options | {"disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            self.done += int(n or 0)
            if on_bytes is not None and self.counts_bytes and self.done > SilentBar.furthest:
                SilentBar.furthest = self.done
                on_bytes(self.done)

    return SilentBar


def _free_bytes(directory: Path) -> int:
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
