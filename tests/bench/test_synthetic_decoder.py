"""Decoders made for measurements are the files that an export writes, but for their values."""

from __future__ import annotations

import json
import shutil
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from valley2_edge.bench import synthetic_decoder
from valley2_edge.bench.shapes import SHAPES, shape_config
from valley2_edge.bench.synthetic_decoder import SyntheticDecoder
from valley2_edge.config import DecoderConfig
from valley2_edge.errors import BudgetError, InputError
from valley2_edge.precisions import DecoderPrecision
from valley2_edge.runtime.core.decoder import Decoder

# No matrix fills its last panel.
ODD = DecoderConfig(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=71,
    max_position_embeddings=64,
)


def header(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        return json.loads(stream.read(size))


@pytest.mark.parametrize("precision", ["int4", "int8", "fp16", "fp32"])
def test_files_are_laid_out_as_an_export_does(tmp_path: Path, precision: DecoderPrecision) -> None:
    from valley2_edge.export.decoder.formats import decoder_formats
    from valley2_edge.export.decoder.layout import decoder_metadata, decoder_plan, embeddings_metadata

    SyntheticDecoder(ODD, precision, 32).write(tmp_path)
    formats = decoder_formats(precision, group_size=32)
    written = header(tmp_path / "decoder.safetensors")
    metadata = {key: _json(value) for key, value in written.pop("__metadata__").items()}
    assert metadata == {key: _json(value) for key, value in decoder_metadata(ODD, formats).items()}
    tensors = [(name, tensor) for name, tensor in written.items() if not name.startswith("_pad.")]
    planned = [(plan.name, plan.dtype, list(plan.shape)) for plan in decoder_plan(ODD, formats)]
    assert [(name, tensor["dtype"], tensor["shape"]) for name, tensor in tensors] == planned
    assert all(tensor["data_offsets"][0] % 64 == 0 for _, tensor in tensors)
    assert header(tmp_path / "embeddings.safetensors")["__metadata__"] == embeddings_metadata()


def test_group_sizes_are_those_of_an_export_by_default() -> None:
    from valley2_edge.export.decoder.formats import decoder_formats, fitted_formats
    from valley2_edge.export.decoder.layout import decoder_plan

    config = shape_config("qwen2.5-7b", 1)
    planned = decoder_plan(config, fitted_formats(decoder_formats("int4"), config))
    whole = sum(prod(plan.shape) * {"F32": 4, "F16": 2, "U8": 1}[plan.dtype] for plan in planned)
    assert SyntheticDecoder(config).size == whole


@pytest.mark.parametrize("precision", ["int4", "int8", "fp16", "fp32"])
def test_decoder_computes_numbers(tmp_path: Path, precision: DecoderPrecision) -> None:
    SyntheticDecoder(ODD, precision, 32).write(tmp_path)
    rows = np.random.default_rng(0).standard_normal((5, ODD.hidden_size), np.float32)
    with Decoder(tmp_path, threads=1) as decoder, decoder.session() as session:
        session.prefill([rows, np.array([3], np.int32)])
        logits = session.logits()
    assert np.isfinite(logits).all()
    assert logits.std() > 0


def test_lm_head_may_have_its_own_precision(tmp_path: Path) -> None:
    SyntheticDecoder(ODD, "int4", 32, lm_head_precision="int4").write(tmp_path)
    matrices = json.loads(header(tmp_path / "decoder.safetensors")["__metadata__"]["matrices"])
    assert {entry["precision"] for entry in matrices.values()} == {"int4"}


def test_weights_repeat_after_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_decoder, "BLOCK_VALUES", 100)
    SyntheticDecoder(ODD, "fp32").write(tmp_path)
    content = header(tmp_path / "decoder.safetensors")
    begin, end = content["layers.1.mlp.down.weight"]["data_offsets"]
    path = tmp_path / "decoder.safetensors"
    data_begin = path.stat().st_size - max(
        entry["data_offsets"][1] for name, entry in content.items() if name != "__metadata__"
    )
    values = np.frombuffer(path.read_bytes()[data_begin + begin : data_begin + end], np.float32)
    assert np.array_equal(values[:100], values[100:200])
    assert len(np.unique(values[:100])) == 100


@pytest.mark.parametrize("group_size", [48, 128])
def test_groups_that_do_not_fit_are_refused(group_size: int) -> None:
    with pytest.raises(InputError, match=str(group_size)):
        SyntheticDecoder(ODD, "int4", group_size)


def test_full_disk_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(synthetic_decoder.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(BudgetError, match="TMPDIR"):
        SyntheticDecoder(SHAPES["tiny"]).write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def _json(text: str) -> object:
    return json.loads(text) if text.startswith("{") else text
