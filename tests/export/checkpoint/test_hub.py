"""Where a checkpoint comes from, without a network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import DryRunFileInfo
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from valley2_edge.errors import BudgetError, CheckpointError
from valley2_edge.export.checkpoint import hub
from valley2_edge.export.checkpoint.hub import DEFAULT_CHECKPOINT, resolve_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": 2_000, "model-00001-of-00002.safetensors": 3_000_000, "model-00002-of-00002.safetensors": 7_000}


class FakeHub:
    """Stands for huggingface_hub.snapshot_download.

    Args:
        directory: What a download returns.
        cached: Files that are there already.
        refusal: Raised by the dry run, wrapped as the client wraps it when it is a failed access.
        interruption: Raised in the middle of a download.
        has_copy: Whether an earlier download is complete.
    """

    def __init__(
        self,
        directory: Path,
        cached: tuple[str, ...] = (),
        refusal: Exception | None = None,
        interruption: Exception | None = None,
        has_copy: bool = False,
    ):
        self.directory, self.cached, self.has_copy = directory, cached, has_copy
        self.refusal, self.interruption = refusal, interruption
        self.calls: list[dict[str, Any]] = []

    def __call__(self, name: str, **options: Any) -> str | list[DryRunFileInfo]:
        self.calls.append(options | {"name": name})
        if options.get("local_files_only"):
            if not self.has_copy:
                raise LocalEntryNotFoundError("not in the cache")
            return str(self.directory)
        if options.get("dry_run"):
            return self.plan()
        files_bar = options["tqdm_class"](total=len(FILES), desc="Fetching files")
        bytes_bar = options["tqdm_class"](total=0, unit="B", unit_scale=True, name="huggingface_hub.snapshot_download")
        for file, size in FILES.items():
            if file not in self.cached:
                bytes_bar.update(size)
            if self.interruption is not None:
                raise self.interruption
            files_bar.update(1)
        return str(self.directory)

    def plan(self) -> list[DryRunFileInfo]:
        if isinstance(self.refusal, RevisionNotFoundError):
            raise self.refusal
        if self.refusal is not None:
            raise DryRunError("cannot be accessed") from self.refusal
        return [
            DryRunFileInfo(
                commit_hash=COMMIT, file_size=size, filename=file, local_path="",
                is_cached=file in self.cached, will_download=file not in self.cached,
            )
            for file, size in FILES.items()
        ]  # fmt: skip


def answer(kind: type[HfHubHTTPError]) -> HfHubHTTPError:
    """An error as the hub's server causes it."""
    response: Any = SimpleNamespace(headers={}, request=None, status_code=404)
    return kind("the server's words\nand more of them", response=response)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def install(**options: Any) -> FakeHub:
        fake = FakeHub(tmp_path, **options)
        monkeypatch.setattr(hub, "snapshot_download", fake)
        return fake

    return install


def test_directory_is_used_as_it_is(tmp_path: Path) -> None:
    assert resolve_checkpoint(tmp_path) == tmp_path


def test_directory_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="revision"):
        resolve_checkpoint(tmp_path, revision="main")


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "/no/such/place", "a/b/c", ""])
def test_neither_directory_nor_hub_id(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="neither a directory nor a hub id"):
        resolve_checkpoint(name or "file")


def test_amount_is_announced_before_fetching(install: Any, tmp_path: Path) -> None:
    fake = install()
    said: list[str] = []
    assert resolve_checkpoint(announce=lambda sentence: said.append(f"{len(fake.calls)}: {sentence}")) == tmp_path
    assert said == [said[0]]
    assert said[0].startswith("1: Fetching 2.9 MiB of bytedance-research/Valley2-DPO into ")
    assert "free" in said[0]


def test_fetches_the_planned_commit_and_needed_files_only(install: Any) -> None:
    fake = install()
    resolve_checkpoint("owner/model", revision="main")
    plan, download = fake.calls
    assert (plan["name"], plan["revision"], plan["dry_run"]) == ("owner/model", "main", True)
    assert download["revision"] == COMMIT
    assert "*.md" not in download["allow_patterns"] and "model*.safetensors" in download["allow_patterns"]


def test_progress_counts_the_bytes_that_are_missing(install: Any) -> None:
    install(cached=("config.json",))
    steps: list[tuple[str, int, int]] = []
    resolve_checkpoint(progress=lambda *step: steps.append(step))
    assert steps == [
        ("download", 3_000_000, 3_007_000),
        ("download", 3_007_000, 3_007_000),
        ("download", 3_007_000, 3_007_000),
    ]


def test_nothing_is_announced_when_all_is_there(install: Any) -> None:
    install(cached=tuple(FILES))
    said: list[str] = []
    resolve_checkpoint(announce=said.append)
    assert said == []


def test_full_disk_is_noticed_before_fetching(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install()
    monkeypatch.setattr(hub, "_free_bytes", lambda directory: 3_000_000)
    with pytest.raises(BudgetError, match=r"needs 2\.9 MiB .* 2\.9 MiB are free"):
        resolve_checkpoint()
    assert len(fake.calls) == 1


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (RepositoryNotFoundError, "has no model owner/model"),
        (GatedRepoError, "owner/model is gated"),
        (RevisionNotFoundError, "owner/model has no revision v9"),
        (HfHubHTTPError, "cannot be reached .* has not been fetched before"),
    ],
)
def test_refusal_is_one_sentence(install: Any, kind: type[HfHubHTTPError], words: str) -> None:
    install(refusal=answer(kind))
    with pytest.raises(CheckpointError, match=words) as caught:
        resolve_checkpoint("owner/model", revision="v9")
    assert "\n" not in str(caught.value)


def test_repository_without_a_config_is_not_a_checkpoint(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    monkeypatch.delitem(FILES, "config.json")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        resolve_checkpoint("owner/model")


def test_offline_uses_an_earlier_copy_and_says_so(install: Any, tmp_path: Path) -> None:
    install(refusal=ConnectionError("no route to host"), has_copy=True)
    said: list[str] = []
    assert resolve_checkpoint("owner/model", announce=said.append) == tmp_path
    (sentence,) = said
    assert "no route to host" in sentence and "fetched before" in sentence


def test_interruption_says_that_it_can_be_resumed(install: Any) -> None:
    install(interruption=ConnectionError("reset by peer"))
    with pytest.raises(CheckpointError, match=r"reset by peer.*resume"):
        resolve_checkpoint("owner/model")


def test_truly_offline_call_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Port 9 of this machine answers nobody; the hub's real client runs into it
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="The hub cannot be reached") as caught:
        resolve_checkpoint(DEFAULT_CHECKPOINT)
    assert "\n" not in str(caught.value)
