"""The exported decoder holds the checkpoint's weights, rounded as its format says, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from valley2_edge.errors import CheckpointError, ExportError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.decoder.formats import decoder_formats
from valley2_edge.export.decoder.stored_decoder import StoredDecoder
from valley2_edge.export.decoder.writer import export_decoder, export_embeddings
from valley2_edge.precisions import DecoderPrecision
from valley2_edge.quantize.nf4 import quantize_rows_nf4
from valley2_edge.quantize.rtn import dequantize_rows

CHECKPOINT = Path(__file__).parents[2] / "golden" / "ckpt" / "eagle_ovis"


@pytest.fixture(scope="module")
def checkpoint() -> Iterator[Checkpoint]:
    with Checkpoint.open(CHECKPOINT) as opened:
        yield opened


class EditedCheckpoint:
    """A checkpoint of which one tensor was replaced."""

    def __init__(self, checkpoint: Checkpoint, name: str, tensor: torch.Tensor) -> None:
        self._checkpoint, self._name, self._tensor = checkpoint, name, tensor

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensor(name).shape)

    def dtype(self, name: str) -> torch.dtype:
        return self.tensor(name).dtype

    def tensor(self, name: str) -> torch.Tensor:
        return self._tensor if name == self._name else self._checkpoint.tensor(name)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.tensor(name)[start:stop]


def _gate_up(checkpoint: Checkpoint) -> torch.Tensor:
    names = [f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up")]
    return torch.cat([checkpoint.tensor(name) for name in names]).float()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_float_weights_come_back(checkpoint: Checkpoint, tmp_path: Path, precision: DecoderPrecision) -> None:
    errors = export_decoder(checkpoint, checkpoint.config.decoder, tmp_path, decoder_formats(precision))
    stored = StoredDecoder(tmp_path)
    dtype = torch.float16 if precision == "fp16" else torch.float32
    assert torch.equal(stored.matrix("layers.1.mlp.gate_up"), _gate_up(checkpoint).to(dtype).float())
    assert torch.equal(stored.matrix("lm_head"), checkpoint.tensor("lm_head.weight").to(dtype).float())
    bias = torch.cat([checkpoint.tensor(f"model.layers.0.self_attn.{part}_proj.bias") for part in "qkv"]).float()
    assert torch.equal(stored.tensor("layers.0.attention.qkv.bias"), bias)
    assert torch.equal(stored.tensor("norm"), checkpoint.tensor("model.norm.weight").float())
    assert max(error.relative_error for error in errors) < 1e-4


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("symmetric", [False, True])
def test_int4_errors_are_those_of_the_file(
    checkpoint: Checkpoint, tmp_path: Path, group_size: int, symmetric: bool
) -> None:
    formats = decoder_formats("int4", group_size=group_size, symmetric=symmetric)
    errors = {error.name: error for error in export_decoder(checkpoint, checkpoint.config.decoder, tmp_path, formats)}
    stored = StoredDecoder(tmp_path)
    exact = _gate_up(checkpoint)
    difference = (stored.matrix("layers.1.mlp.gate_up") - exact).norm() / exact.norm()
    recorded = errors["layers.1.mlp.gate_up"]
    assert recorded.precision == "int4"
    assert recorded.relative_error == pytest.approx(float(difference), rel=1e-4)
    assert 0.05 < recorded.relative_error < 0.12
    assert errors["lm_head"].precision == "int8"
    assert errors["lm_head"].relative_error < 0.01


def test_every_matrix_has_its_error_in_file_order(checkpoint: Checkpoint, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    errors = export_decoder(
        checkpoint, checkpoint.config.decoder, tmp_path, decoder_formats("int8"), lambda *step: steps.append(step)
    )
    parts = ("attention.qkv", "attention.output", "mlp.gate_up", "mlp.down")
    assert [error.name for error in errors] == [f"layers.{i}.{part}" for i in range(2) for part in parts] + ["lm_head"]
    assert steps == [("decoder", done, 9) for done in range(1, 10)]


def test_the_header_describes_the_decoder(checkpoint: Checkpoint, tmp_path: Path) -> None:
    export_decoder(checkpoint, checkpoint.config.decoder, tmp_path, decoder_formats("int4", group_size=64))
    with safe_open(tmp_path / "decoder" / "decoder.safetensors", "pt") as reader:
        metadata = reader.metadata()
        shapes = {name: tuple(reader.get_slice(name).get_shape()) for name in reader.keys()}  # noqa: SIM118
    assert (metadata["format"], metadata["format_version"]) == ("valley2-decoder", "1")
    config = json.loads(metadata["config"])
    assert (config["hidden_size"], config["head_size"], config["vocab_size"]) == (256, 32, 679)
    matrices = json.loads(metadata["matrices"])
    assert matrices["layers.0.attention.qkv"] == {
        "precision": "int4", "rows": 384, "columns": 256, "group_size": 64, "symmetric": False,
    }  # fmt: skip
    assert matrices["lm_head"]["precision"] == "int8"
    assert matrices["lm_head"]["symmetric"] is True
    assert shapes["layers.0.attention.qkv.weight"] == (6, 32, 64, 4)
    assert shapes["layers.0.attention.qkv.zeros"] == (6, 4, 64)
    assert shapes["lm_head.weight"] == (11, 64, 64, 4)


def test_nf4_is_stored_as_int4_with_a_code(checkpoint: Checkpoint, tmp_path: Path) -> None:
    formats = decoder_formats("int4", group_size=64, code="nf4")
    errors = {error.name: error for error in export_decoder(checkpoint, checkpoint.config.decoder, tmp_path, formats)}
    with safe_open(tmp_path / "decoder" / "decoder.safetensors", "pt") as reader:
        matrices = json.loads(reader.metadata()["matrices"])
        assert not [name for name in reader.keys() if name.endswith(".zeros")]  # noqa: SIM118
    assert matrices["layers.0.attention.qkv"] == {
        "precision": "int4", "rows": 384, "columns": 256, "group_size": 64, "symmetric": True, "code": "nf4",
    }  # fmt: skip
    assert matrices["lm_head"]["precision"] == "int8" and "code" not in matrices["lm_head"]
    exact, name = _gate_up(checkpoint), "layers.1.mlp.gate_up"
    rows = quantize_rows_nf4(exact, formats.layers, name)
    stored = StoredDecoder(tmp_path)
    assert torch.equal(stored.matrix(name), dequantize_rows(rows, formats.layers))
    difference = (stored.matrix(name) - exact).norm() / exact.norm()
    assert errors[name].relative_error == pytest.approx(float(difference), rel=1e-4)


def test_symmetric_int4_stores_no_zero_points(checkpoint: Checkpoint, tmp_path: Path) -> None:
    export_decoder(checkpoint, checkpoint.config.decoder, tmp_path, decoder_formats("int4", symmetric=True))
    with safe_open(tmp_path / "decoder" / "decoder.safetensors", "pt") as reader:
        assert not [name for name in reader.keys() if name.endswith(".zeros")]  # noqa: SIM118


def test_padded_rows_of_nf4_hold_the_code_of_zero(checkpoint: Checkpoint, tmp_path: Path) -> None:
    formats = decoder_formats("int4", lm_head_precision="int4", code="nf4")
    export_decoder(checkpoint, checkpoint.config.decoder, tmp_path, formats)
    with safe_open(tmp_path / "decoder" / "decoder.safetensors", "pt") as reader:
        weight, scales = reader.get_tensor("lm_head.weight"), reader.get_tensor("lm_head.scales")
    real = 679 - 10 * 64
    assert torch.all(weight[-1, :, real:] == 0x77)
    assert torch.count_nonzero(scales[-1, :, real:]) == 0


def test_padded_rows_dequantise_to_zero(checkpoint: Checkpoint, tmp_path: Path) -> None:
    export_decoder(checkpoint, checkpoint.config.decoder, tmp_path, decoder_formats("int4", lm_head_precision="int4"))
    with safe_open(tmp_path / "decoder" / "decoder.safetensors", "pt") as reader:
        scales, zeros = reader.get_tensor("lm_head.scales"), reader.get_tensor("lm_head.zeros")
        weight = reader.get_tensor("lm_head.weight")
    real = 679 - 10 * 64
    assert torch.count_nonzero(scales[-1, :, real:]) == 0
    assert torch.count_nonzero(zeros[-1, :, real:]) == 0
    assert torch.count_nonzero(weight[-1, :, real:]) == 0


def test_embeddings_are_the_checkpoints_own_bytes(checkpoint: Checkpoint, tmp_path: Path) -> None:
    export_embeddings(checkpoint, checkpoint.config.decoder, tmp_path)
    with safe_open(tmp_path / "decoder" / "embeddings.safetensors", "pt") as reader:
        assert reader.metadata() == {"format": "valley2-embeddings", "format_version": "1"}
        table = reader.get_tensor("embeddings.weight")
    original = checkpoint.tensor("model.embed_tokens.weight")
    assert table.dtype == original.dtype
    assert torch.equal(table, original)


def test_tied_embeddings_become_the_output_matrix(checkpoint: Checkpoint, tmp_path: Path) -> None:
    config = checkpoint.config.decoder.model_copy(update={"tie_word_embeddings": True})
    export_decoder(checkpoint, config, tmp_path, decoder_formats("fp32"))
    assert torch.equal(
        StoredDecoder(tmp_path).matrix("lm_head"), checkpoint.tensor("model.embed_tokens.weight").float()
    )


def test_a_damaged_weight_names_its_matrix(checkpoint: Checkpoint, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    for value, message in ((float("nan"), "layers.1.mlp.down holds a NaN"), (1e9, "layers.1.mlp.down has weights too")):
        weight = checkpoint.tensor(name).float()
        weight[3, 5] = value
        for precision in ("int4", "int8", "fp16"):
            with pytest.raises(ExportError, match=message):
                export_decoder(
                    EditedCheckpoint(checkpoint, name, weight),
                    checkpoint.config.decoder,
                    tmp_path,
                    decoder_formats(precision),  # type: ignore[arg-type]
                )


def test_a_misshapen_weight_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.k_proj.weight"
    edited = EditedCheckpoint(checkpoint, name, torch.zeros(65, 256))
    with pytest.raises(CheckpointError, match=r"k_proj\.weight.*\[385, 256\]; \[384, 256\] is expected"):
        export_decoder(edited, checkpoint.config.decoder, tmp_path, decoder_formats("fp32"))


def test_columns_that_are_no_whole_groups_are_refused_before_writing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    config = checkpoint.config.decoder.model_copy(update={"intermediate_size": 544})
    with pytest.raises(ExportError, match=r"mlp\.down has 544 columns, not a multiple of the group size 64: choose 32"):
        export_decoder(checkpoint, config, tmp_path, decoder_formats("int4"))
    assert not (tmp_path / "decoder" / "decoder.safetensors").exists()
