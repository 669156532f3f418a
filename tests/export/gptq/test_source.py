"""A decoder that was quantised elsewhere comes in with every bit, or is refused before anything is written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from valley2_edge.bundle import open_bundle, read_manifest
from valley2_edge.config import DecoderConfig
from valley2_edge.errors import CheckpointError, ExportError, Valley2Error, Valley2Warning
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.decoder.parts import DecoderMatrix, decoder_parts
from valley2_edge.export.decoder.stored_decoder import StoredDecoder
from valley2_edge.export.decoder.writer import export_embeddings, export_rounded_decoder
from valley2_edge.export.gptq.output_scales import SCALES_FILE
from valley2_edge.export.gptq.source import GptqDecoder, weight_heights
from valley2_edge.export.options import ExportOptions
from valley2_edge.runtime.core.decoder import Decoder

GOLDEN = Path(__file__).parents[2] / "golden"
CHECKPOINT = GOLDEN / "ckpt" / "eagle_ovis"
BY_GPTQMODEL = sorted(path.parent.name for path in GOLDEN.glob("gptq/*/expected.json"))
"""Checkpoints that GPTQModel wrote, with what it computes from them (benchmarks/make_gptq_golden.py)."""
SMALL = DecoderConfig(
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=32,
    max_position_embeddings=256,
)
Q_PROJ = "model.layers.0.self_attn.q_proj"
Edit = Callable[[dict[str, torch.Tensor]], None]


def _take_in(source: Path, target: Path, config: DecoderConfig = SMALL) -> GptqDecoder:
    decoder = GptqDecoder(source, config)
    export_rounded_decoder(decoder, config, target, decoder.formats)
    export_embeddings(decoder, config, target)
    return decoder


def _checkpoint_config() -> DecoderConfig:
    with Checkpoint.open(CHECKPOINT) as checkpoint:
        return checkpoint.config.decoder


def _native_logits(directory: Path, tokens: list[int], isa: str = "auto") -> np.ndarray[Any, Any]:
    with (
        Decoder(directory / "decoder", activations="int16", isa=isa) as decoder,
        decoder.session(kv_precision="fp32") as session,
    ):
        session.prefill([np.array(tokens, np.int32)], logit_rows=len(tokens))
        return session.logits(len(tokens))


def _edited(tmp_path: Path, edit: Edit, name: str = "symmetric") -> Path:
    """A copy of a golden checkpoint whose tensors were changed."""
    directory = tmp_path / "edited"
    shutil.copytree(GOLDEN / "gptq" / name, directory)
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors")
    return directory


def _configured(tmp_path: Path, file: str, values: dict[str, Any]) -> Path:
    """A copy of a golden checkpoint with other values in one of its configs."""
    directory = tmp_path / "configured"
    shutil.copytree(GOLDEN / "gptq" / "symmetric", directory)
    content = json.loads((directory / file).read_text())
    (directory / file).write_text(json.dumps({**content, **values}))
    return directory


@pytest.mark.parametrize("name", BY_GPTQMODEL)
def test_weights_are_those_that_gptqmodel_unpacks(tmp_path: Path, name: str) -> None:
    expected = json.loads((GOLDEN / "gptq" / name / "expected.json").read_text())["sha256_of_fp16_weights"]
    _take_in(GOLDEN / "gptq" / name, tmp_path)
    stored, found = StoredDecoder(tmp_path), {}
    for part in decoder_parts(SMALL):
        if isinstance(part, DecoderMatrix) and part.name != "lm_head":
            pieces = torch.split(stored.matrix(part.name), weight_heights(part, SMALL))
            for weight, piece in zip(part.weights, pieces, strict=True):
                digest = hashlib.sha256(piece.contiguous().half().numpy().tobytes()).hexdigest()
                found[weight.removesuffix(".weight")] = digest
    assert found == expected


@pytest.mark.parametrize("name", BY_GPTQMODEL)
def test_logits_are_near_those_of_gptqmodel(tmp_path: Path, name: str) -> None:
    expected = json.loads((GOLDEN / "gptq" / name / "expected.json").read_text())
    _take_in(GOLDEN / "gptq" / name, tmp_path)
    logits = _native_logits(tmp_path, expected["input_ids"])[-1]
    theirs = np.array(expected["last_logits"])  # in fp16 arithmetic
    assert np.linalg.norm(logits - theirs) < 5e-3 * np.linalg.norm(theirs)


def test_formats_are_read_off_the_tensors() -> None:
    formats = GptqDecoder(GOLDEN / "gptq" / "symmetric", SMALL).formats
    layer = formats.of("layers.0.mlp.gate_up")
    assert (layer.precision, layer.group_size, layer.has_zeros) == ("int4", 32, False)
    assert formats.lm_head.precision == "fp32"  # bfloat16 fits


def test_activation_order_is_refused_at_once() -> None:
    with pytest.raises(ExportError, match=r"q_proj\.g_idx puts columns .* without desc_act, or with static groups"):
        GptqDecoder(GOLDEN / "gptq" / "activation_order", SMALL)


def test_one_layer_out_of_order_is_found(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.g_idx"

    def shuffle(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = tensors[name][torch.randperm(64, generator=torch.Generator().manual_seed(0))]

    with pytest.raises(ExportError, match=r"up_proj\.g_idx puts columns .* without desc_act, or with static groups"):
        GptqDecoder(_edited(tmp_path, shuffle), SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["portable", "auto"])
def test_the_lowest_int8_level_is_computed_right(tmp_path: Path, isa: str) -> None:
    from valley2_edge.export.decoder.reference import reference_logits

    def as_int8(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(".qweight")]:
            rows = tensors[name].shape[1]
            words = torch.randint(-(2**31), 2**31 - 1, (16, rows), generator=torch.Generator().manual_seed(1))
            tensors[name] = words.to(torch.int32)
            tensors[name][::3] = 0  # four times q = -128
            layer = name.removesuffix(".qweight")
            tensors[f"{layer}.qzeros"] = torch.full((2, rows // 4), 0x7F7F7F7F, dtype=torch.int32)
            tensors[f"{layer}.scales"] = torch.full((2, rows), 2e-3, dtype=torch.float16)

    _take_in(_edited(tmp_path, as_int8), tmp_path)
    tokens = list(range(3, 30))
    stored = StoredDecoder(tmp_path)
    assert float(stored.matrix("layers.0.mlp.down").min()) == pytest.approx(-128 * 2e-3, rel=1e-3)
    expected = reference_logits(stored, stored.embed(tokens), len(tokens)).numpy()
    found = _native_logits(tmp_path, tokens, isa)
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def test_a_file_named_as_autogptq_names_it_is_found(tmp_path: Path) -> None:
    directory = tmp_path / "old"
    shutil.copytree(GOLDEN / "gptq" / "symmetric", directory)
    (directory / "model.safetensors").rename(directory / "gptq_model-4bit-32g.safetensors")
    assert GptqDecoder(directory, SMALL).formats.layers.group_size == 32


def test_biases_of_zeros_are_left_out_and_others_refused(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.down_proj.bias"
    directory = _edited(tmp_path, lambda tensors: tensors.update({name: torch.zeros(64)}))
    GptqDecoder(directory, SMALL)
    shutil.rmtree(directory)
    directory = _edited(tmp_path, lambda tensors: tensors.update({name: torch.ones(64)}))
    with pytest.raises(CheckpointError, match=r"has a tensor model\.layers\.0\.mlp\.down_proj\.bias"):
        GptqDecoder(directory, SMALL)


def _drop(name: str) -> Edit:
    return lambda tensors: tensors.__delitem__(name)


def _put(name: str, tensor: torch.Tensor) -> Edit:
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_drop(f"{Q_PROJ}.scales"), rf"has no tensor {Q_PROJ}\.scales"),
        (_drop(f"{Q_PROJ}.bias"), rf"has no tensor {Q_PROJ}\.bias"),
        (_drop("model.norm.weight"), r"has no tensor model\.norm\.weight"),
        (_drop("lm_head.weight"), r"has no tensor lm_head\.weight"),
        (_put("model.layers.1.x", torch.zeros(1)), r"has a tensor model\.layers\.1\.x"),
        (_put("lm_head.weight", torch.zeros(40, 64)), r"lm_head\.weight has shape \[40, 64\]; \[32, 64\] is expected"),
        (_put(f"{Q_PROJ}.qweight", torch.zeros(8, 72, dtype=torch.int32)), r"matrix of 64 rows and 64 columns"),
        (_put(f"{Q_PROJ}.qzeros", torch.zeros(2, 8)), rf"{Q_PROJ}\.qzeros is stored as torch\.float32"),
        (_put(f"{Q_PROJ}.scales", torch.full((2, 64), float("nan"))), rf"{Q_PROJ}\.scales holds a NaN"),
        (_put(f"{Q_PROJ}.qzeros", torch.zeros(2, 8, dtype=torch.int32)), r"points other than 8, but the checkpoint"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, edit: Edit, message: str) -> None:
    with pytest.raises(Valley2Error, match=message):
        GptqDecoder(_edited(tmp_path, edit), SMALL)


def test_layers_of_one_matrix_must_be_alike(tmp_path: Path) -> None:
    def wider(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{Q_PROJ}.scales"] = tensors[f"{Q_PROJ}.scales"][:1].clone()
        tensors[f"{Q_PROJ}.qzeros"] = tensors[f"{Q_PROJ}.qzeros"][:1].clone()
        tensors[f"{Q_PROJ}.g_idx"] = torch.zeros(64, dtype=torch.int32)

    with pytest.raises(ExportError, match=r"q_proj, .*k_proj, .*v_proj differ in bits or groups"):
        GptqDecoder(_edited(tmp_path, wider), SMALL)


@pytest.mark.parametrize("missing_bytes", [1, 5000])
def test_a_truncated_file_is_refused(tmp_path: Path, missing_bytes: int) -> None:
    directory = _edited(tmp_path, lambda tensors: None)
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-missing_bytes])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        GptqDecoder(directory, SMALL)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("config.json", {"hidden_size": 128}, r"hidden_size is 128, but the model that the decoder is for has 64"),
        ("config.json", {"vocab_size": 40}, r"vocab_size is 40"),
        ("config.json", {"rope_parameters": {"rope_theta": 10000.0}}, r"rope_theta is 10000\.0"),
        ("quantize_config.json", {"quant_method": "awq"}, r"method 'awq' .* only gptq"),
        ("quantize_config.json", {"checkpoint_format": "marlin"}, r"format 'marlin' are not supported"),
        ("quantize_config.json", {"rotation": "hadamard"}, r"rotation = 'hadamard' is not supported: its weights"),
        ("quantize_config.json", {"dynamic": {"+:(": {}}}, r"'\+:\(' is not supported: a parenthesis is not closed"),
        ("quantize_config.json", {"meta": 3}, r"meta and dynamic must be objects"),
    ],
)
def test_configs_of_another_kind_are_refused(tmp_path: Path, file: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(Valley2Error, match=message):
        GptqDecoder(_configured(tmp_path, file, values), SMALL)


def test_a_checkpoint_that_is_not_quantized_is_refused(tmp_path: Path) -> None:
    directory = _configured(tmp_path, "config.json", {"quantization_config": None})
    (directory / "quantize_config.json").unlink()
    with pytest.raises(CheckpointError, match="it has no quantization_config"):
        GptqDecoder(directory, SMALL)
    with pytest.raises(CheckpointError, match="is not a directory"):
        GptqDecoder(tmp_path / "nothing", SMALL)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, int4_bundle: Path) -> Path:
    """The GPTQ checkpoint of a bundle; not to be changed."""

    from valley2_edge.export.gptq.checkpoint_from_bundle import write_gptq_checkpoint

    return write_gptq_checkpoint(open_bundle(int4_bundle), tmp_path_factory.mktemp("gptq") / "converted")


@pytest.mark.slow
def test_export_takes_the_decoder_and_measures_it(converted: Path, int4_bundle: Path, tmp_path: Path) -> None:
    from valley2_edge.export.pipeline import export_bundle

    bundle = export_bundle(CHECKPOINT, tmp_path / "bundle", ExportOptions(decoder=converted))
    for name in ("decoder.safetensors", "embeddings.safetensors"):
        assert (bundle / "decoder" / name).read_bytes() == (int4_bundle / "decoder" / name).read_bytes()
    found, expected = read_manifest(bundle), read_manifest(int4_bundle)
    assert found.decoder == expected.decoder
    assert found.quality["decoder_source"] == "converted"
    assert open_bundle(bundle, check="full").manifest.source.checkpoint == "eagle_ovis"


@pytest.mark.slow
def test_an_output_matrix_of_floats_is_rounded_as_export_does(converted: Path, tmp_path: Path) -> None:
    from valley2_edge.export.pipeline import export_bundle

    directory = tmp_path / "plain"
    shutil.copytree(converted, directory)
    (directory / SCALES_FILE).unlink()
    decoder = GptqDecoder(directory, _checkpoint_config())
    assert not decoder.output_rounded
    bundle = export_bundle(CHECKPOINT, tmp_path / "bundle", ExportOptions(decoder=directory))
    assert read_manifest(bundle).decoder.lm_head_precision == "int8"


@pytest.mark.slow
def test_an_output_matrix_of_integers_keeps_its_precision(converted: Path, tmp_path: Path) -> None:
    from valley2_edge.export.pipeline import export_bundle

    with pytest.raises(ExportError, match="is rounded to int8 already: it cannot become fp16"):
        export_bundle(CHECKPOINT, tmp_path / "bundle", ExportOptions(decoder=converted, lm_head_precision="fp16"))
    assert list(tmp_path.iterdir()) == []


def test_an_output_matrix_that_was_changed_is_noticed(converted: Path, tmp_path: Path) -> None:
    directory = tmp_path / "changed"
    shutil.copytree(converted, directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"][5, 7] += 1e-4
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight does not consist of multiples .* remove that file"):
        _take_in(directory, tmp_path / "bundle", _checkpoint_config())


@pytest.mark.slow
def test_the_decoder_of_another_model_is_pointed_out(tmp_path: Path, int4_bundle: Path) -> None:
    from valley2_edge.export.gptq.checkpoint_from_bundle import write_gptq_checkpoint
    from valley2_edge.export.pipeline import export_bundle

    other = write_gptq_checkpoint(open_bundle(int4_bundle), tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("qweight"):
            tensors[name] = tensor.flip(1)  # rows in another order
    save_file(tensors, other / "model.safetensors")
    with pytest.warns(Valley2Warning, match="it may be the decoder of another model"):
        export_bundle(CHECKPOINT, tmp_path / "bundle", ExportOptions(decoder=other))
