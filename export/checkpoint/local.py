"""Finds a checkpoint that is on this machine, without loading the hub's client."""

from __future__ import annotations

import re
from pathlib import Path

from valley2_edge.builtin import builtin_checkpoint
from valley2_edge.errors import CheckpointError
from valley2_edge.outside_files import is_directory, is_file, shown

DEFAULT_CHECKPOINT = "bytedance-research/Valley2-DPO"
CONFIG_NAME = "config.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def local_checkpoint(name_or_path: str | Path, revision: str | None = None) -> Path | None:
    """The directory of a checkpoint that is on this machine.

    Args:
        name_or_path: A directory, the name of a checkpoint that comes with the package (nano), or a hub id OWNER/NAME.
        revision: Branch, tag or commit, which only a hub id may have.

    Returns:
        The directory, or None for a hub id.

    Raises:
        CheckpointError: The name is neither a directory nor a hub id, or a directory is given with a revision.
    """
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if not is_file(path / CONFIG_NAME):
        path = builtin_checkpoint(name) or path
    if is_directory(path):
        if revision is not None:
            raise CheckpointError(f"{name} is on this machine; --revision {revision} belongs to a hub id.")
        return path
    if is_file(path) or not _HUB_ID.fullmatch(name):
        raise CheckpointError(f"{shown(name)[1:-1]} is neither a directory nor a hub id such as {DEFAULT_CHECKPOINT}.")
    return None
