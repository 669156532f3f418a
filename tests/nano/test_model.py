"""The model that is trained is the Valley2 that the project exports and runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from valley2_edge.export.checkpoint.tensor_names import required_tensors
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.pipeline import export_bundle
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.preprocess import prepare_pictures
from valley2_edge.runtime.engines import Engines, prompt_segments
from valley2_edge.runtime.model import Valley2
from valley2_nano.checkpoint import read_checkpoint, write_checkpoint
from valley2_nano.model import Switches, Valley2Nano
from valley2_nano.packing import PackedBatch, pack
from valley2_nano.samples import SampleMaker

pytestmark = pytest.mark.slow

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def engines(
    model: Valley2Nano, tokenizer_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engines]:
    root = tmp_path_factory.mktemp("exported")
    write_checkpoint(root / "checkpoint", model, tokenizer_directory, torch.float32)
    with Valley2.load(export_bundle(root / "checkpoint", root / "bundle", ExportOptions(precision="fp32"))) as loaded:
        yield loaded.engines


def batch_of(maker: SampleMaker, model: Valley2Nano, pictures: list[Picture], questions: list[str]) -> PackedBatch:
    sample = maker.sample(pictures, [(question, None) for question in questions])
    batch = pack([sample], model.config.projector.tokens_per_side**2, model.config.siglip.patches_per_side**2)
    return replace(batch, target_rows=batch.turn_ends)


def test_tensors_have_the_released_names_and_shapes(model: Valley2Nano) -> None:
    made = {name: tuple(tensor.shape) for name, tensor in model.released_state().items()}
    assert made == required_tensors(model.config)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_logits_equal_those_of_the_exported_bundle(
    count: int, engines: Engines, model: Valley2Nano, maker: SampleMaker, pictures: list[Picture]
) -> None:
    questions = ["What is the price?", "Name the colour of the second one."]
    with torch.no_grad():
        ours = model(batch_of(maker, model, pictures[:count], questions)).numpy()  # (2, vocabulary)
    prepared = prepare_pictures(pictures[:count], engines.architecture, Policy())
    tokens = engines.vision.encode(prepared, CancelToken()).tokens
    for question, logits in zip(questions, ours, strict=True):
        session = engines.decoder.session(kv_precision="fp32")
        session.prefill(prompt_segments(maker.turn(question, None, count).prompt, tokens))
        expected = session.logits()[0]
        session.close()
        assert np.linalg.norm(logits - expected) < 1e-4 * np.linalg.norm(expected)


def test_a_checkpoint_holds_the_weights_as_bf16(model: Valley2Nano, tokenizer_directory: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", model, tokenizer_directory)
    read = read_checkpoint(tmp_path / "checkpoint").state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(read[name], tensor.bfloat16().float(), rtol=2**-7, atol=0.0)


def test_a_branch_that_is_switched_off_changes_the_answer(
    model: Valley2Nano, maker: SampleMaker, pictures: list[Picture]
) -> None:
    batch = batch_of(maker, model, pictures[:1], ["What is the price?", "And the colour?"])
    with torch.no_grad():
        views = [
            model(batch, switches=switches) for switches in (Switches(), Switches(siglip=False), Switches(eagle=False))
        ]
    assert (views[0] - views[1]).abs().max() > 1e-3
    assert (views[0] - views[2]).abs().max() > 1e-3


def test_a_blind_model_does_not_see_the_picture(
    model: Valley2Nano, maker: SampleMaker, pictures: list[Picture]
) -> None:
    blind = Switches(siglip=False, eagle=False)
    other = [255 - pictures[0]]
    with torch.no_grad():
        logits = [
            model(batch_of(maker, model, shown, ["What is the price?"]), switches=blind)
            for shown in (pictures[:1], other)
        ]
    torch.testing.assert_close(logits[0], logits[1], rtol=0.0, atol=0.0)
