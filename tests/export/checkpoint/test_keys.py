"""Every key of a config is read, has one supported value, or is known to change nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from valley2_edge.config import ModelConfig
from valley2_edge.errors import CheckpointError
from valley2_edge.export.checkpoint.config import parse_grid_pinpoints, read_model_config
from valley2_edge.export.checkpoint.keys import (
    GENERATION_IGNORED,
    GENERATION_SUPPORTED,
    IGNORED,
    READ,
    SUPPORTED,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "ckpt" / "eagle_ovis"
CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", "vision_geometry.json")
REMOVE = object()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in CONFIGS:
        shutil.copyfile(GOLDEN / name, tmp_path / name)
    return tmp_path


def edit(path: Path, changes: dict[str, Any]) -> None:
    values = {**json.loads(path.read_text("utf-8")), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not REMOVE}), "utf-8")


def read_with(directory: Path, name: str = "config.json", **changes: Any) -> ModelConfig:
    edit(directory / name, changes)
    return read_model_config(directory)


def moved(**rope: Any) -> dict[str, Any]:
    """What transformers 5 makes of a config when it saves it."""
    return {
        "rope_theta": REMOVE,
        "rope_scaling": REMOVE,
        "torch_dtype": REMOVE,
        "dtype": "bfloat16",
        "layer_types": ["full_attention"] * 2,
        "pad_token_id": None,
        "rope_parameters": {"rope_theta": 1_000_000.0, "rope_type": "default", **rope},
    }


def test_config_that_transformers_5_saved_is_the_same_model(directory: Path) -> None:
    assert read_with(directory, **moved()) == read_model_config(GOLDEN)


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("kind", ["yarn", "linear", "dynamic", "llama3", "longrope", "mrope", "su"])
@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_scaled_positions_are_refused_by_name(directory: Path, name: str, kind: str, key: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{name}\.{key} = '{kind}' is not supported"):
        read_with(directory, **{name: {key: kind, "factor": 4.0, "rope_theta": 1e6}})


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"mrope_section": [16, 24, 24]}, "mrope_section"),
        ({"factor": 2.0}, "factor = 2.0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"full_attention": {"rope_type": "default"}}, "full_attention"),
        ({"rope_theta": 10000.0}, "rope_theta is given as"),
        ("yarn", "'yarn' is not an object"),
    ],
)
def test_other_rope_keys_are_refused_by_name(directory: Path, name: str, rope: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_with(directory, **{name: rope})


@pytest.mark.parametrize("rope", [None, {"rope_type": "default"}, {"type": "default", "rope_theta": 1e6}])
def test_plain_rope_scaling_is_none(directory: Path, rope: Any) -> None:
    assert read_with(directory, rope_scaling=rope) == read_model_config(GOLDEN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": False}, "attention_bias = False"),
        ({"mlp_bias": True}, "mlp_bias = True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"layer_types": ["full_attention"]}, "layer_types names 1 layers"),
        ({"layer_types": "full_attention"}, "layer_types"),
        ({"head_dim": 64}, "head_dim 64"),
        ({"head_dim": 0}, "head_dim 0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"torch_dtype": "float8_e4m3fn"}, "torch_dtype = 'float8_e4m3fn'"),
        ({"dtype": "int8"}, "dtype = 'int8'"),
        ({"vit_patch_size": 16}, "vit_patch_size 16"),
        ({"eagle_vision_tower": ""}, "eagle_vision_tower"),
        ({"eagle_vision_tower": False}, "eagle_vision_tower"),
        ({"model_class": "valley-video"}, "model_class"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"suppress_tokens": [5]}, "suppress_tokens"),
        ({"logit_scale": 0.5}, "the key 'logit_scale' is not known"),
        ({"final_logit_softcapping": 30.0}, "the key 'final_logit_softcapping' is not known"),
        ({"text_config": {"rope_parameters": {"rope_type": "yarn"}}}, "the key 'text_config' is not known"),
        ({"vision_config": {"hidden_size": 7}}, "the key 'vision_config' is not known"),
        ({"qk_norm": True}, "the key 'qk_norm' is not known"),
    ],
)
def test_key_that_changes_the_arithmetic_is_refused_by_name(
    directory: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_with(directory, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", ["softmax", "st_argmax"])
def test_function_of_the_visual_vocabulary_is_read(directory: Path, function: str) -> None:
    assert read_with(directory, tokenize_function=function).projector.tokenize_function == function


def test_visual_vocabulary_is_mixed_by_softmax_unless_the_config_says_otherwise(directory: Path) -> None:
    assert read_with(directory, tokenize_function=REMOVE).projector.tokenize_function == "softmax"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("gumbel_argmax", "'gumbel_argmax' is not supported: the reference itself fails on it"),
        ("argmax", "tokenize_function is 'argmax'; supported are softmax and st_argmax"),
        (None, "tokenize_function is None"),
        (["softmax"], r"tokenize_function is \['softmax'\]"),
    ],
)
def test_other_functions_of_the_visual_vocabulary_are_refused(directory: Path, function: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_with(directory, tokenize_function=function)


@pytest.mark.parametrize(
    "changes",
    [
        {"_name_or_path": "x", "auto_map": {"AutoModel": "a.B"}, "transformers_version": "9", "use_cache": False},
        {"mm_projector_lr": 1e-5, "freeze_mm_mlp_adapter": False, "gradient_checkpointing": True},
        {"sliding_window": 131072, "max_window_layers": 28, "attention_dropout": 0.1},
        {"attention_bias": True, "mlp_bias": False, "head_dim": 32, "dtype": "float16"},
        {"do_sample": True, "temperature": 0.7, "id2label": {"0": "LABEL_0"}},
    ],
)
def test_keys_that_change_nothing_are_let_through(directory: Path, changes: dict[str, Any]) -> None:
    assert read_with(directory, **changes) == read_model_config(GOLDEN)


def test_every_key_that_transformers_saves_is_known() -> None:
    from transformers import GenerationConfig, Qwen2Config

    known = READ | IGNORED | SUPPORTED.keys() | GENERATION_SUPPORTED.keys() | GENERATION_IGNORED
    assert set(Qwen2Config().to_dict()) - known == set()
    assert set(GenerationConfig().to_dict()) - GENERATION_SUPPORTED.keys() - GENERATION_IGNORED == {"eos_token_id"}


def test_no_key_has_two_meanings() -> None:
    kinds = [READ, IGNORED, SUPPORTED.keys(), GENERATION_SUPPORTED.keys()]
    assert len(set().union(*kinds)) == sum(map(len, kinds))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_beams": 4}, "num_beams = 4 .beam search."),
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size"),
        ({"min_new_tokens": 5}, "min_new_tokens"),
        ({"suppress_tokens": [1]}, "suppress_tokens"),
        ({"bad_words_ids": [[1]]}, "bad_words_ids"),
        ({"guidance_scale": 1.5}, "guidance_scale"),
        ({"stop_strings": ["."]}, "stop_strings"),
        ({"novelty": 1}, "the key 'novelty' is not known"),
        ({"eos_token_id": 679}, "eos_token_id 679 is outside of vocab_size 679"),
        ({"eos_token_id": 2**70}, "Input should be less than or equal to"),
        ({"eos_token_id": []}, "are not token numbers"),
        ({"eos_token_id": [True]}, "are not token numbers"),
        ({"eos_token_id": list(range(65))}, "at most 64 items"),
    ],
)
def test_generation_config_that_would_change_answers_is_refused(
    directory: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_with(directory, "generation_config.json", **changes)


def test_stop_token_of_null_comes_from_config(directory: Path) -> None:
    assert read_with(directory, "generation_config.json", eos_token_id=None).stop_tokens == (645,)


@pytest.mark.parametrize(
    "changes",
    [
        {"add_bos_token": True},
        {"add_prefix_space": True},
        {"split_special_tokens": True},
        {"clean_up_tokenization_spaces": True},
        {"errors": "strict"},
        {"chat_template": "{{ messages }}"},
    ],
)
def test_tokenizer_config_of_another_tokenizer_is_refused(directory: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        read_with(directory, "tokenizer_config.json", **changes)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 0),
        ("num_attention_heads", 0),
        ("num_key_value_heads", 0),
        ("num_key_value_heads", -2),
        ("hidden_size", 2**40),
        ("hidden_size", 256.0),
        ("hidden_size", True),
        ("intermediate_size", -1),
        ("vocab_size", 2**31),
        ("max_position_embeddings", -5),
        ("max_position_embeddings", 2**62),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", -1e-6),
        ("rope_theta", 0),
        ("rope_theta", "1e6"),
        ("mlp_hidden_dim", 2**40),
        ("max_vision_token", 0),
        ("tie_word_embeddings", "no"),
        ("anyres", "yes"),
    ],
)
def test_number_out_of_bounds_is_refused_by_its_key(directory: Path, key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=key):
        read_with(directory, **{key: value})


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("siglip", "patch_size", 0),
        ("siglip", "patch_size", 400),
        ("siglip", "num_attention_heads", 0),
        ("siglip", "num_hidden_layers", 10**9),
        ("qwen2vl_vit", "num_heads", 0),
        ("qwen2vl_vit", "depth", 10**9),
        ("qwen2vl_vit", "rope_parameters", {"rope_type": "yarn"}),
        ("qwen2vl_vit", "window_size", 112),
    ],
)
def test_vision_geometry_out_of_bounds_is_refused_by_its_key(
    directory: Path, part: str, key: str, value: object
) -> None:
    tower = json.loads((directory / "vision_geometry.json").read_text("utf-8"))[part]
    with pytest.raises(CheckpointError, match=key):
        read_with(directory, "vision_geometry.json", **{part: {**tower, key: value}})


@pytest.mark.parametrize(
    "value",
    [
        "(1x1),(40000x40000)",
        "(1x1),(" + "9" * 5000 + "x1)",
        "(1x1),(33x33)",
        "[" * 50_000,
        "[[384, 384]] * 10**9",
        [[384, 2**40]],
        "__import__('os')",
    ],
)
def test_canvases_without_end_are_refused(directory: Path, value: object) -> None:
    with pytest.raises(CheckpointError, match="grid_pinpoints"):
        read_with(directory, grid_pinpoints=value)


def test_canvases_of_too_many_tiles_are_refused(directory: Path) -> None:
    with pytest.raises(CheckpointError, match="at most 256 tiles of 384"):
        read_with(directory, grid_pinpoints="[[384, 384], [9600, 9600]]")


def test_tuples_of_python_are_canvases() -> None:
    assert parse_grid_pinpoints("[(768, 384), (384, 384)]", 384) == ((768, 384), (384, 384))
