"""A bundle of any projector: from a checkpoint to an answer, and to what the answer says of its vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from valley2_edge.bundle import open_bundle
from valley2_edge.config import ProjectorType, TokenizeFunction
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.pipeline import export_bundle
from valley2_edge.export.synthetic.checkpoint import small_config, write_synthetic_checkpoint
from valley2_edge.options import LoadOptions
from valley2_edge.runtime.model import Valley2
from valley2_edge.verify.run import self_test

pytestmark = pytest.mark.slow

TOKENIZER = Path(__file__).parents[2] / "golden" / "ckpt" / "eagle_ovis"


@pytest.mark.parametrize(
    ("projector", "function", "share"),
    [
        ("ovis_conv_adapter", "st_argmax", 1 / 320),  # one of the vocabulary's entries for each token
        ("conv_adapter", "softmax", None),
        ("mlp_pixel_shuffle", "softmax", None),
    ],
)
def test_checkpoint_of_any_projector_becomes_a_bundle_that_answers(
    tmp_path: Path, projector: ProjectorType, function: TokenizeFunction, share: float | None
) -> None:
    config = small_config(projector, eagle=False, tokenize_function=function)
    write_synthetic_checkpoint(tmp_path / "c", config, TOKENIZER)
    options = ExportOptions(precision="fp32", vision_precision="bf16")
    export_bundle(tmp_path / "c", tmp_path / "b", options=options)
    bundle = open_bundle(tmp_path / "b")
    assert (bundle.manifest.projector.precision, bundle.manifest.projector.files) == (
        "bf16",
        ["vision/projector.safetensors"],
    )
    assert [row.stage for row in self_test(bundle, LoadOptions(threads=1)) if not row.passed] == []
    with Valley2.load(tmp_path / "b", threads=1) as model:
        session = model.session()
        pixels = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
        "".join(session.ask("What is this?", images=[pixels], max_new_tokens=2))
        assert session.statistics.vocabulary_share == share
        assert session.statistics.dropped_mass == 0
