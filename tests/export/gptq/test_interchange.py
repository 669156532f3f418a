"""A bundle's decoder becomes a GPTQ checkpoint and comes back with every bit."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from valley2_edge.bundle import open_bundle, read_manifest
from valley2_edge.config import DecoderConfig
from valley2_edge.errors import BudgetError, CheckpointError, ExportError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.decoder.formats import DecoderFormats, NamedFormats, decoder_formats
from valley2_edge.export.decoder.parts import DecoderMatrix, decoder_parts
from valley2_edge.export.decoder.stored_decoder import StoredDecoder
from valley2_edge.export.decoder.writer import export_decoder, export_embeddings, export_rounded_decoder
from valley2_edge.export.gptq import writer as gptq_writer
from valley2_edge.export.gptq.bundle_from_checkpoint import bundle_gptq_checkpoint
from valley2_edge.export.gptq.checkpoint_from_bundle import write_gptq_checkpoint
from valley2_edge.export.gptq.output_scales import SCALES_FILE
from valley2_edge.export.gptq.source import GptqDecoder
from valley2_edge.export.gptq.writer import GptqWriter
from valley2_edge.export.quality.report import REPORT_FILE
from valley2_edge.options import LoadOptions
from valley2_edge.quantize.gptq_checkpoint import GptqFormat
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.rtn import QuantizedRows
from valley2_edge.verify.run import self_test

pytestmark = pytest.mark.slow

CHECKPOINT = Path(__file__).parents[2] / "golden" / "ckpt" / "eagle_ovis"
DECODER_FILES = ("decoder/decoder.safetensors", "decoder/embeddings.safetensors")
LAYER = "model.layers.0"


def _write_decoder(directory: Path, formats: DecoderFormats) -> DecoderConfig:
    with Checkpoint.open(CHECKPOINT) as checkpoint:
        export_decoder(checkpoint, checkpoint.config.decoder, directory, formats)
        export_embeddings(checkpoint, checkpoint.config.decoder, directory)
        return checkpoint.config.decoder


def _convert(bundle: Path, target: Path, checkpoint_format: GptqFormat | None = None) -> Path:
    """What write_gptq_checkpoint writes, from a directory that holds a decoder only."""
    target.mkdir()
    writer = GptqWriter(StoredDecoder(bundle), checkpoint_format)
    writer.write_tensors(target / "model.safetensors", lambda *_: None)
    writer.write_scales(target / SCALES_FILE)
    with Checkpoint.open(CHECKPOINT) as checkpoint:
        (target / "config.json").write_text(json.dumps(writer.model_config(checkpoint.config, "rtn")))
    return target


def _take_in(source: Path, target: Path, config: DecoderConfig) -> None:
    decoder = GptqDecoder(source, config)
    export_rounded_decoder(decoder, config, target, decoder.formats)
    export_embeddings(decoder, config, target)


def _mixed_formats(config: DecoderConfig) -> NamedFormats:
    named = {part.name: MatrixFormat("int4", 64) for part in decoder_parts(config) if isinstance(part, DecoderMatrix)}
    named["layers.0.mlp.down"] = MatrixFormat("int8", 128)
    named["layers.0.attention.output"] = MatrixFormat("fp16")
    named["layers.1.mlp.gate_up"] = MatrixFormat("int4", 32, symmetric=True)
    named["lm_head"] = MatrixFormat("int8", 64)
    return NamedFormats(named["layers.0.attention.qkv"], named["lm_head"], named)


@pytest.mark.parametrize(
    "options",
    [
        {"group_size": 32},
        {"group_size": 64, "symmetric": True},
        {"group_size": 128, "lm_head_precision": "int4"},
        {"lm_head_precision": "fp16"},
        {"lm_head_precision": "fp32"},
        {"precision": "int8"},
    ],
    ids=str,
)
def test_every_bit_comes_back(tmp_path: Path, options: dict[str, Any]) -> None:
    config = _write_decoder(tmp_path / "bundle", decoder_formats(**{"precision": "int4", **options}))
    converted = _convert(tmp_path / "bundle", tmp_path / "gptq")
    _take_in(converted, tmp_path / "back", config)
    for name in DECODER_FILES:
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "bundle" / name).read_bytes()
    again = _convert(tmp_path / "back", tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (converted / "model.safetensors").read_bytes()


def test_mixed_precisions_come_back_through_dynamic(tmp_path: Path) -> None:
    with Checkpoint.open(CHECKPOINT) as checkpoint:
        formats = _mixed_formats(checkpoint.config.decoder)
    config = _write_decoder(tmp_path / "bundle", formats)
    converted = _convert(tmp_path / "bundle", tmp_path / "gptq")
    assert json.loads((converted / "config.json").read_text())["quantization_config"]["dynamic"] == {
        r"-:^model\.layers\.0\.self_attn\.o_proj$": {},
        r"+:^model\.layers\.0\.mlp\.down_proj$": {"bits": 8, "group_size": 128, "sym": True},
        r"+:^model\.layers\.1\.mlp\.gate_proj$": {"bits": 4, "group_size": 32, "sym": True},
        r"+:^model\.layers\.1\.mlp\.up_proj$": {"bits": 4, "group_size": 32, "sym": True},
    }
    _take_in(converted, tmp_path / "back", config)
    for name in DECODER_FILES:
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "bundle" / name).read_bytes()


@pytest.mark.parametrize(
    ("symmetric", "asked", "written"),
    [(True, None, "gptq"), (False, None, "gptq_v2"), (True, "gptq_v2", "gptq_v2")],
)
def test_the_format_follows_the_zero_points(
    tmp_path: Path, symmetric: bool, asked: GptqFormat | None, written: str
) -> None:
    _write_decoder(tmp_path / "bundle", decoder_formats("int4", symmetric=symmetric))
    config = json.loads((_convert(tmp_path / "bundle", tmp_path / "gptq", asked) / "config.json").read_text())
    quantization = config["quantization_config"]
    assert (quantization["checkpoint_format"], quantization["format"]) == (written, written)
    assert (quantization["bits"], quantization["group_size"], quantization["sym"]) == (4, 64, symmetric)
    assert (quantization["desc_act"], quantization["lm_head"]) == (False, False)


def test_the_file_is_that_of_a_qwen2_model(tmp_path: Path) -> None:
    _write_decoder(tmp_path / "bundle", decoder_formats("int4", group_size=64))
    converted = _convert(tmp_path / "bundle", tmp_path / "gptq")
    tensors = load_file(converted / "model.safetensors")
    with Checkpoint.open(CHECKPOINT) as checkpoint:
        for name in ("model.embed_tokens.weight", "model.norm.weight", f"{LAYER}.input_layernorm.weight"):
            assert tensors[name].dtype == torch.bfloat16 and torch.equal(tensors[name], checkpoint.tensor(name))
        bias = checkpoint.tensor(f"{LAYER}.self_attn.k_proj.bias").float()
    assert torch.equal(tensors[f"{LAYER}.self_attn.k_proj.bias"].float(), bias)
    exact = StoredDecoder(tmp_path / "bundle").matrix("lm_head")
    assert tensors["lm_head.weight"].dtype == torch.float32 and torch.equal(tensors["lm_head.weight"], exact)
    assert "valley2_rotation" not in json.loads((converted / "config.json").read_text())
    shapes = {name: tuple(tensors[f"{LAYER}.mlp.up_proj.{name}"].shape) for name in ("qweight", "qzeros", "scales")}
    assert shapes == {"qweight": (32, 512), "qzeros": (4, 64), "scales": (4, 512)}
    with safe_open(converted / "model.safetensors", "pt") as reader:
        assert reader.metadata() == {"format": "pt"}


def test_tensors_begin_at_multiples_of_their_item_size(tmp_path: Path) -> None:
    _write_decoder(tmp_path / "bundle", decoder_formats("int4"))
    data = (_convert(tmp_path / "bundle", tmp_path / "gptq") / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    sizes = {"F32": 4, "I32": 4, "F16": 2, "BF16": 2}
    assert all(
        (8 + length + entry["data_offsets"][0]) % sizes[entry["dtype"]] == 0
        for name, entry in header.items()
        if name != "__metadata__"
    )


def test_a_decoder_of_floats_is_refused(tmp_path: Path) -> None:
    _write_decoder(tmp_path / "bundle", decoder_formats("fp16"))
    with pytest.raises(ExportError, match="has no int4 or int8 layer"):
        GptqWriter(StoredDecoder(tmp_path / "bundle"))


def test_a_decoder_of_unequal_steps_is_refused(tmp_path: Path) -> None:
    _write_decoder(tmp_path / "bundle", decoder_formats("int4", code="nf4"))
    with pytest.raises(ExportError, match=r"layers\.0\.attention\.qkv is nf4: the GPTQ layout knows levels of equal"):
        GptqWriter(StoredDecoder(tmp_path / "bundle"))


def test_a_lost_integer_of_the_output_matrix_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_decoder(tmp_path / "bundle", decoder_formats("int4"))
    decoder = StoredDecoder(tmp_path / "bundle")
    read = decoder.quantized_rows

    def without_a_scale(name: str, first: int = 0, last: int | None = None) -> QuantizedRows:
        rows = read(name, first, last)
        rows.scales[3, 1] = 0
        return rows

    monkeypatch.setattr(decoder, "quantized_rows", without_a_scale)
    with pytest.raises(ExportError, match="lm_head has a group with a scale of 0"):
        GptqWriter(decoder).write_tensors(tmp_path / "model.safetensors", lambda *_: None)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, int4_bundle: Path) -> Path:
    """The GPTQ checkpoint of a bundle; not to be changed."""
    return write_gptq_checkpoint(open_bundle(int4_bundle), tmp_path_factory.mktemp("gptq") / "converted")


def test_a_bundle_comes_back_whole_and_passes_its_self_test(converted: Path, int4_bundle: Path, tmp_path: Path) -> None:
    made = bundle_gptq_checkpoint(converted, tmp_path / "back", open_bundle(int4_bundle))
    back, original = open_bundle(made, check="full"), open_bundle(int4_bundle)
    # A report tells how an export went, and there was none here.
    assert set(back.manifest.files) == set(original.manifest.files) - {REPORT_FILE}
    changed = {name for name, entry in back.manifest.files.items() if entry != original.manifest.files[name]}
    assert not changed
    assert back.manifest.decoder.method == original.manifest.decoder.method == "rtn"
    assert all(row.passed for row in self_test(back, LoadOptions(threads=1)))


def test_a_rotated_decoder_says_so_and_wants_towers_that_are_rotated_alike(
    converted: Path, int4_bundle: Path, tmp_path: Path
) -> None:
    config = json.loads((converted / "config.json").read_text())
    assert config["valley2_rotation"] == {"kind": "hadamard", "seed": 0}
    plain = shutil.copytree(converted, tmp_path / "plain")
    other = shutil.copytree(converted, tmp_path / "other")
    (other / "config.json").write_text(json.dumps({**config, "valley2_rotation": {"kind": "hadamard", "seed": 1}}))
    del config["valley2_rotation"]
    (plain / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ExportError, match=r"plain is not rotated, .* is rotated \(hadamard, seed 0\): .*--rotation none"
    ):
        bundle_gptq_checkpoint(plain, tmp_path / "bundle", open_bundle(int4_bundle))
    with pytest.raises(ExportError, match=r"other is rotated \(hadamard, seed 1\), .* is rotated \(hadamard, seed 0\)"):
        bundle_gptq_checkpoint(other, tmp_path / "bundle", open_bundle(int4_bundle))
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("marker", ["hadamard", {"kind": "dct"}, {"kind": "hadamard", "seed": 2.5}])
def test_a_rotation_that_is_not_known_is_refused(converted: Path, tmp_path: Path, marker: object) -> None:
    directory = shutil.copytree(converted, tmp_path / "other")
    config = json.loads((converted / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "valley2_rotation": marker}))
    with Checkpoint.open(CHECKPOINT) as checkpoint, pytest.raises(CheckpointError, match="valley2_rotation: "):
        GptqDecoder(directory, checkpoint.config.decoder)


def test_the_tokenizer_goes_along(converted: Path, int4_bundle: Path) -> None:
    for path in (int4_bundle / "tokenizer").iterdir():
        assert (converted / path.name).read_bytes() == path.read_bytes()
    assert json.loads((converted / "config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]


def test_the_decoder_of_another_architecture_is_refused(converted: Path, int4_bundle: Path, tmp_path: Path) -> None:
    directory = tmp_path / "other"
    shutil.copytree(converted, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match="num_hidden_layers is 3, but the model that the decoder is for has 2"):
        bundle_gptq_checkpoint(directory, tmp_path / "bundle", open_bundle(int4_bundle))
    assert not (tmp_path / "bundle").exists()


def test_what_is_there_is_replaced_only_when_asked(converted: Path, int4_bundle: Path, tmp_path: Path) -> None:
    bundle, output = open_bundle(int4_bundle), tmp_path / "gptq"
    shutil.copytree(converted, output)
    (output / "config.json").write_text("{}")
    with pytest.raises(ExportError, match=r"gptq exists: .*--overwrite"):
        write_gptq_checkpoint(bundle, output)
    assert (output / "config.json").read_text() == "{}"
    write_gptq_checkpoint(bundle, output, overwrite=True)
    assert (output / "config.json").read_bytes() == (converted / "config.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gptq"]


def test_what_is_no_gptq_checkpoint_is_never_replaced(int4_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    for output in (tmp_path / "precious", int4_bundle):
        with pytest.raises(ExportError, match="exists and is not a GPTQ checkpoint"):
            write_gptq_checkpoint(open_bundle(int4_bundle), output, overwrite=True)
    assert (tmp_path / "precious" / "file").read_text() == "mine"
    assert read_manifest(int4_bundle)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    int4_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(gptq_writer.GptqWriter, "write_scales", full)
    with pytest.raises(BudgetError, match=r"the disk of .* is full: nothing was kept"):
        write_gptq_checkpoint(open_bundle(int4_bundle), tmp_path / "gptq")
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_seen_before_anything_is_written(
    int4_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 1000))
    with pytest.raises(BudgetError, match="the checkpoint needs"):
        write_gptq_checkpoint(open_bundle(int4_bundle), tmp_path / "gptq")
    assert list(tmp_path.iterdir()) == []
