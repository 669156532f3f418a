"""Stopping an export from another thread: what is finished is kept, nothing else is, and a later run goes on."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from plain_manifest import plain_manifest

from valley2_edge.errors import Cancelled
from valley2_edge.export.bundle.writer import BundleWriter
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.control import ExportControl
from valley2_edge.export.rounding.layer_store import LayerState, LayerStore
from valley2_edge.export.rounding.work_meter import WorkMeter

CHECKPOINT = Path(__file__).parents[1] / "golden" / "ckpt" / "eagle_ovis"


def make_a(directory: Path) -> dict[str, Any]:
    (directory / "a.bin").write_bytes(b"a")
    return {}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_is_finished_is_kept_and_the_rest_removed(tmp_path: Path) -> None:
    control = ExportControl()

    def make_b(directory: Path) -> dict[str, Any]:
        (directory / "b.bin").write_bytes(b"part")
        control.cancel()
        return {}  # its file is hashed next, with a look at the flag before every piece

    def export() -> None:
        with BundleWriter(tmp_path / "out", "f", control=control) as writer:
            writer.component("a", make_a)
            writer.component("b", make_b)

    with pytest.raises(Cancelled, match="the export was stopped"):
        export()
    assert names(tmp_path) == [".out.partial"]
    assert names(tmp_path / ".out.partial") == ["a.bin", "progress.json"]
    assert control.outcome() == f"a is kept in {tmp_path / '.out.partial'}; run the same command again to go on"


@pytest.mark.parametrize("error", [Cancelled("stopped"), KeyboardInterrupt()])
def test_nothing_stays_where_nothing_is_finished(tmp_path: Path, error: BaseException) -> None:
    control = ExportControl()

    def export() -> None:
        with BundleWriter(tmp_path / "out", "f", control=control) as writer:
            (writer.directory / "a.bin").write_bytes(b"part")
            raise error

    with pytest.raises(type(error)):
        export()
    assert names(tmp_path) == []
    assert control.outcome() == "nothing is kept"


def test_an_abandoned_export_finishes_nothing_more(tmp_path: Path) -> None:
    control = ExportControl()
    # What the thread of the work would do after the process has said what is kept.
    writer = BundleWriter(tmp_path / "out", "f", control=control).__enter__()
    writer.component("a", make_a)
    store = LayerStore(writer.workspace, control)
    store.layer_path(0).touch()
    store.commit(LayerState(steps=1))
    control.note_layers(1, 3)
    control.cancel()
    for finish in (lambda: store.commit(LayerState(steps=2)), lambda: writer.publish(plain_manifest(writer))):
        with pytest.raises(Cancelled):
            finish()
    control.abandon()
    control.tidy()
    assert LayerStore(writer.workspace).state.steps == 1
    assert names(writer.directory) == ["a.bin", "progress.json", "workspace"]
    assert control.outcome().startswith("a and 1 of 3 layers are kept in ")


def test_what_an_earlier_run_finished_survives_while_it_is_not_read_yet(tmp_path: Path) -> None:
    BundleWriter(tmp_path / "out", "f").__enter__().component("a", make_a)
    gc.collect()  # so that its lock is free, as the system frees that of a killed process
    control = ExportControl()
    BundleWriter(tmp_path / "out", "f", control=control)
    control.abandon()
    control.tidy()
    with BundleWriter(tmp_path / "out", "f") as writer:
        writer.component("a", lambda directory: pytest.fail("it was made again"))


def test_a_published_bundle_is_called_complete(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out", "f") as writer:
        writer.component("a", make_a)
        writer.publish(plain_manifest(writer))
    writer.control.abandon()
    writer.control.tidy()
    assert writer.control.outcome() == f"{tmp_path / 'out'} is complete"
    assert names(tmp_path) == ["out"]


def test_a_long_read_looks_at_the_flag_between_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("valley2_edge.export.checkpoint.checkpoint._PIECE", 1024)
    with Checkpoint.open(CHECKPOINT) as checkpoint:
        looks = 0

        def look() -> None:
            nonlocal looks
            looks += 1

        monkeypatch.setattr(checkpoint.cancel, "check", look)
        tensor = checkpoint.tensor("model.embed_tokens.weight")
        assert looks == 1 + -(-tensor.numel() * tensor.element_size() // 1024)
        monkeypatch.undo()
        checkpoint.cancel.cancel()
        with pytest.raises(Cancelled):
            checkpoint.rows("model.embed_tokens.weight", 0, 1)


def test_rounding_looks_at_the_flag_before_every_piece_of_work() -> None:
    control = ExportControl()
    meter = WorkMeter({"round": 2.0}, control.check)
    with meter.measured("round", 1.0):
        control.cancel()
    with pytest.raises(Cancelled), meter.measured("round", 1.0):
        pytest.fail("the work went on")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["projector: check", "decoder", "selftest"])
def test_a_cancelled_export_goes_on_to_the_same_bytes(tmp_path: Path, int4_bundle: Path, stage: str) -> None:
    from valley2_edge.export.options import ExportOptions
    from valley2_edge.export.pipeline import export_bundle
    from valley2_edge.export.rounding.options import RoundingOptions

    options = ExportOptions(rounding=RoundingOptions(method="rtn"), rotation="hadamard")
    control = ExportControl()

    def progress(name: str, done: int, total: int) -> None:
        if name == stage:
            control.cancel()

    with pytest.raises(Cancelled):
        export_bundle(CHECKPOINT, tmp_path / "out", options, progress=progress, control=control)
    assert names(tmp_path) == [".out.partial"]
    made: list[str] = []
    export_bundle(CHECKPOINT, tmp_path / "out", options, progress=lambda name, done, total: made.append(name))
    assert "siglip: weights" not in made and stage in made
    assert names(tmp_path) == ["out"]
    files = [path.relative_to(int4_bundle) for path in int4_bundle.rglob("*") if path.is_file()]
    for file in files:
        if file.name != "valley2.json":  # it has the time
            assert (tmp_path / "out" / file).read_bytes() == (int4_bundle / file).read_bytes(), file
