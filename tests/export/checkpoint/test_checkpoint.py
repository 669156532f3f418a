"""What a checkpoint must be to be read, and what is said when it is not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from valley2_edge.config import EagleConfig, ModelConfig, SiglipConfig
from valley2_edge.errors import CheckpointError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.checkpoint.config import parse_grid_pinpoints
from valley2_edge.export.checkpoint.tensor_names import required_tensors, unused_tensors
from valley2_edge.export.synthetic.checkpoint import small_config, write_synthetic_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden" / "ckpt" / "eagle_ovis"
ONE_FILE = 1 << 40
REMOVE = object()

Tensors = dict[str, torch.Tensor]


def make_checkpoint(directory: Path, config: ModelConfig | None = None, shard_bytes: int = ONE_FILE) -> Path:
    write_synthetic_checkpoint(directory, config or small_config(), GOLDEN, shard_bytes=shard_bytes)
    return directory


def edit_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text("utf-8"))
    values.update(changes)
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not REMOVE}), "utf-8")


def edit_tensors(directory: Path, edit: Callable[[Tensors], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors")


def assert_refused(directory: Path, *words: str) -> None:
    """Opening fails with one sentence that has all the words in it."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(directory)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("pristine") / "checkpoint")


@pytest.fixture
def directory(tmp_path: Path, pristine: Path) -> Path:
    """A small checkpoint that a test may damage."""
    return Path(shutil.copytree(pristine, tmp_path / "checkpoint"))


def test_release_has_1184_tensors_and_8_88_billion_parameters() -> None:
    config = ModelConfig()
    shapes = required_tensors(config) | unused_tensors(config)
    assert len(shapes) == 1184
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 8_880_402_624


def test_golden_config_is_read() -> None:
    checkpoint = Checkpoint.open(GOLDEN)
    config = checkpoint.config
    assert (checkpoint.name, checkpoint.revision) == ("eagle_ovis", None)
    assert config.siglip == SiglipConfig(
        hidden_size=144, num_attention_heads=2, num_hidden_layers=2, intermediate_size=272
    )
    assert config.eagle == EagleConfig(embed_dim=160, num_heads=2, depth=2, hidden_size=256)
    assert (config.projector.type, config.projector.mlp_hidden_dim, config.projector.tokens_per_side) == (
        "ovis_conv_adapter", 320, 14,
    )  # fmt: skip
    assert (config.decoder.vocab_size, config.decoder.head_size) == (679, 32)
    assert config.stop_tokens == (645, 643)
    assert config.picture.canvases[:4] == ((384, 384), (384, 768), (384, 1152), (768, 384))
    assert len(config.picture.canvases) == 9


def test_tensors_and_rows_equal_the_safetensors_library() -> None:
    with Checkpoint.open(GOLDEN) as checkpoint:
        for shard in GOLDEN.glob("*.safetensors"):
            for name, expected in load_file(shard).items():
                assert checkpoint.shape(name) == tuple(expected.shape)
                assert checkpoint.dtype(name) is expected.dtype
                assert torch.equal(checkpoint.tensor(name), expected)
                assert torch.equal(checkpoint.rows(name, 1, expected.shape[0]), expected[1:])


@pytest.mark.parametrize("eagle", [True, False])
@pytest.mark.parametrize("projector", ["ovis_conv_adapter", "conv_adapter", "mlp_pixel_shuffle"])
def test_synthetic_checkpoint_reads_back_as_its_config(tmp_path: Path, projector: Any, eagle: bool) -> None:
    config = small_config(projector, eagle=eagle)
    assert Checkpoint.open(make_checkpoint(tmp_path / "c", config)).config == config


def test_synthetic_checkpoint_says_how_a_token_is_chosen(tmp_path: Path) -> None:
    config = small_config(tokenize_function="st_argmax")
    assert Checkpoint.open(make_checkpoint(tmp_path / "c", config)).config == config


def test_shards_hold_the_same_weights_as_one_file(tmp_path: Path) -> None:
    one = Checkpoint.open(make_checkpoint(tmp_path / "one"))
    sharded = Checkpoint.open(make_checkpoint(tmp_path / "sharded", shard_bytes=1_000_000))
    assert len(list(sharded.path.glob("model-*.safetensors"))) > 2
    for name in required_tensors(one.config):
        assert torch.equal(one.tensor(name), sharded.tensor(name))


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    write_synthetic_checkpoint(tmp_path / "other", small_config(), GOLDEN, seed=1)
    one, other = Checkpoint.open(make_checkpoint(tmp_path / "one")), Checkpoint.open(tmp_path / "other")
    assert not torch.equal(one.tensor("lm_head.weight"), other.tensor("lm_head.weight"))


def test_outliers_are_the_same_few_channels_in_every_layer(tmp_path: Path) -> None:
    write_synthetic_checkpoint(tmp_path / "with", small_config(), GOLDEN, outliers=True)
    plain, other = Checkpoint.open(make_checkpoint(tmp_path / "plain")), Checkpoint.open(tmp_path / "with")
    for part in ("input_layernorm", "post_attention_layernorm", "mlp.up_proj"):
        changed = []
        for layer in range(2):
            name = f"model.layers.{layer}.{part}.weight"
            ratio = (other.tensor(name).float() / plain.tensor(name).float()).reshape(len(other.tensor(name)), -1)
            assert set(ratio.unique().tolist()) == {1.0, 16.0}
            changed.append((ratio == 16).all(1).nonzero().flatten().tolist())
            assert (ratio == 16).any(1).sum() == len(changed[-1]) == 1
        assert changed[0] == changed[1]
    same = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(other.tensor(same), plain.tensor(same))


def test_hub_snapshot_knows_its_name_and_revision(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "models--owner--model" / "snapshots" / "0123abc")
    checkpoint = Checkpoint.open(path)
    assert (checkpoint.name, checkpoint.revision) == ("owner/model", "0123abc")


def test_fingerprint_changes_with_a_file(directory: Path) -> None:
    before = Checkpoint.open(directory).fingerprint()
    assert Checkpoint.open(directory).fingerprint() == before
    edit_json(directory / "config.json", max_vision_token=600)
    assert Checkpoint.open(directory).fingerprint() != before


def test_missing_tensor_is_named(directory: Path) -> None:
    edit_tensors(directory, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    assert_refused(directory, "lacks", "model.layers.1.mlp.up_proj.weight")


def test_extra_tensor_is_named(directory: Path) -> None:
    edit_tensors(directory, lambda tensors: tensors.update({"model.image_newline": torch.zeros(4)}))
    assert_refused(directory, "model.image_newline")


def test_misshapen_tensor_is_named_with_both_shapes(directory: Path) -> None:
    edit_tensors(directory, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(255)}))
    assert_refused(directory, "model.norm.weight", "[255]", "[256]")


def test_tensor_of_another_type_is_named(directory: Path) -> None:
    edit_tensors(directory, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(256, dtype=torch.int64)}))
    assert_refused(directory, "model.norm.weight", "I64")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_fp16_and_fp32_are_accepted(directory: Path, dtype: torch.dtype) -> None:
    edit_tensors(directory, lambda tensors: tensors.update({"model.norm.weight": torch.ones(256, dtype=dtype)}))
    assert Checkpoint.open(directory).dtype("model.norm.weight") is dtype


def test_pooling_head_may_be_there_or_not(tmp_path: Path) -> None:
    assert len(Checkpoint.open(make_checkpoint(tmp_path / "with")).unused) == 11
    write_synthetic_checkpoint(tmp_path / "without", small_config(), GOLDEN, pooling_head=False)
    assert Checkpoint.open(tmp_path / "without").unused == ()


def test_eagle_tower_that_the_config_switches_off_is_unused(directory: Path) -> None:
    edit_json(directory / "config.json", eagle_vision_tower=None)
    checkpoint = Checkpoint.open(directory)
    assert checkpoint.config.eagle is None
    assert "model.qwen2vl_vision_tower.merger.ln_q.weight" in checkpoint.unused


def test_missing_eagle_tower_is_an_error(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "c", small_config(eagle=False))
    edit_json(directory / "config.json", eagle_vision_tower="Qwen/Qwen2-VL-7B-Instruct")
    assert_refused(directory, "lacks", "model.qwen2vl_vision_tower.")


def test_tied_embeddings_need_no_output_head(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "c", small_config(tied=True)))
    assert checkpoint.config.decoder.tie_word_embeddings
    assert "lm_head.weight" not in checkpoint


def test_truncated_shard_is_named(directory: Path) -> None:
    shard = directory / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    assert_refused(directory, "model.safetensors", "truncated")


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64, (9).to_bytes(8, "little") + b"not JSON!"])
def test_file_that_is_not_safetensors_is_named(directory: Path, content: bytes) -> None:
    (directory / "model.safetensors").write_bytes(content)
    assert_refused(directory, "model.safetensors")


def test_index_that_names_a_missing_shard(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "c", shard_bytes=1_000_000)
    (lost,) = directory.glob("model-00002-*.safetensors")
    lost.unlink()
    assert_refused(directory, lost.name, "not there")


def test_index_that_places_a_tensor_wrongly(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "c", shard_bytes=1_000_000)
    index = directory / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
    edit_json(index, weight_map=weight_map | {"model.norm.weight": weight_map["lm_head.weight"]})
    assert_refused(directory, "model.norm.weight")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "llava"}, ["model_type", "llava"]),
        ({"mm_projector_type": "linear"}, ["mm_projector_type", "linear", "conv_adapter"]),
        ({"mm_vision_tower": "openai/clip-vit-large"}, ["mm_vision_tower", "siglip-so400m-patch14-384"]),
        ({"mm_use_im_start_end": True}, ["mm_use_im_start_end"]),
        ({"token_compressor_config": [{"type": "lavit"}]}, ["token_compressor_config"]),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, ["rope_scaling", "yarn"]),
        ({"use_sliding_window": True}, ["use_sliding_window"]),
        ({"tokenize_function": "gumbel_argmax"}, ["tokenize_function"]),
        ({"hidden_act": "gelu"}, ["hidden_act"]),
        ({"quantization_config": {"bits": 4}}, ["quantization_config"]),
        ({"hidden_size": REMOVE}, ["hidden_size"]),
        ({"rope_theta": REMOVE}, ["rope_theta"]),
        ({"num_hidden_layers": "two"}, ["num_hidden_layers"]),
        ({"num_key_value_heads": 3}, ["num_key_value_heads"]),
        ({"num_patches_per_side": 9}, ["num_patches_per_side", "14"]),
        ({"vit_crop_size": 400}, ["vit_crop_size"]),
        ({"vit_crop_size": 448}, ["vit_crop_size", "384"]),
        ({"mm_hidden_size": 1152}, ["mm_hidden_size", "144"]),
        ({"grid_pinpoints": "3 by 3"}, ["grid_pinpoints"]),
        ({"vocab_size": 660}, ["vocab_size", "tokenizer"]),
    ],
)
def test_unsupported_config_is_refused_by_its_key(directory: Path, changes: dict[str, Any], words: list[str]) -> None:
    edit_json(directory / "config.json", **changes)
    assert_refused(directory, *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"siglib": {}}, ["vision_geometry.json", "siglib"]),
        ({"siglip": {"hidden_act": "gelu"}}, ["siglip.hidden_act"]),
        ({"siglip": {"depth": 2}}, ["depth"]),
    ],
)
def test_unknown_vision_geometry_is_refused(directory: Path, changes: dict[str, Any], words: list[str]) -> None:
    edit_json(directory / "vision_geometry.json", **changes)
    assert_refused(directory, *words)


def test_without_vision_geometry_the_towers_have_the_released_sizes(directory: Path) -> None:
    (directory / "vision_geometry.json").unlink()
    edit_json(directory / "config.json", mm_hidden_size=1152, eagle_vision_tower=None)
    assert_refused(directory, "vision_model", "[1152, 3, 14, 14]")


@pytest.mark.parametrize("stop", [645, [645], [645, 643]])
def test_stop_tokens_come_from_generation_config(directory: Path, stop: int | list[int]) -> None:
    edit_json(directory / "generation_config.json", eos_token_id=stop)
    assert Checkpoint.open(directory).config.stop_tokens == tuple(stop if isinstance(stop, list) else [stop])


def test_stop_token_without_generation_config_comes_from_config(directory: Path) -> None:
    (directory / "generation_config.json").unlink()
    assert Checkpoint.open(directory).config.stop_tokens == (645,)


@pytest.mark.parametrize(
    ("value", "canvases"),
    [
        ("(1x1),...,(2x2)", ((384, 384), (384, 768), (768, 384), (768, 768))),
        ("(1x2),...,(1x3)", ((384, 768), (384, 1152))),
        ("[[768, 384], [384, 384]]", ((768, 384), (384, 384))),
        ([[768, 384], [384, 1152]], ((768, 384), (384, 1152))),
    ],
)
def test_grid_pinpoints_have_two_forms(value: object, canvases: tuple[tuple[int, int], ...]) -> None:
    assert parse_grid_pinpoints(value, 384) == canvases


@pytest.mark.parametrize("value", ["(3x3),...,(1x1)", "(0x1),...,(2x2)", "[[384]]", "[[400, 384]]", [], None, "[["])
def test_other_grid_pinpoints_are_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match="grid_pinpoints"):
        parse_grid_pinpoints(value, 384)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    assert_refused(directory, name)


def test_missing_directory_is_named(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nowhere", "nowhere")


def test_shard_that_shrinks_after_opening_is_noticed(directory: Path) -> None:
    checkpoint = Checkpoint.open(directory)
    (directory / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=re.escape("model.norm.weight")):
        checkpoint.tensor("model.norm.weight")
