from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

from valley2_edge.config import DecoderConfig, ModelConfig
from valley2_edge.errors import CheckpointError
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.checkpoint.rotated import RotatedCheckpoint
from valley2_edge.export.checkpoint.tensor_names import EMBEDDINGS, OUTPUT_WEIGHT, decoder_tensors, required_tensors
from valley2_edge.export.synthetic.checkpoint import small_config, write_synthetic_checkpoint
from valley2_edge.export.vision.torch_reference import load_eagle, load_projector
from valley2_edge.rotation import Rotation

pytestmark = pytest.mark.slow

TOKENIZER = Path(__file__).parents[2] / "golden" / "ckpt" / "eagle_ovis"
ROTATION = Rotation(seed=5)
SIZES = {96: (6, 3), 40: (4, 1), 72: (4, 2)}
"""Odd widths, with their query and kv heads: heads of 16, 10 and 18 channels."""
CONFIGS = {
    "released": small_config(),
    "st_argmax": small_config(tokenize_function="st_argmax"),
    "convolution": small_config("conv_adapter"),
    "shuffle, tied": small_config("mlp_pixel_shuffle", tied=True),
    "no Eagle, tied": small_config(eagle=False, tied=True),
}


def _narrow(hidden: int) -> ModelConfig:
    config, (heads, kv_heads) = small_config("conv_adapter", tied=hidden == 40), SIZES[hidden]
    sizes = {"hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    assert config.eagle is not None
    return config.model_copy(
        update={
            "decoder": DecoderConfig(**{**config.decoder.model_dump(), **sizes}),
            "projector": config.projector.model_copy(update={"output_size": hidden}),
            "eagle": config.eagle.model_copy(update={"hidden_size": hidden}),
        }
    )


ALL = CONFIGS | {f"width {hidden}": _narrow(hidden) for hidden in SIZES}


def _open(directory: Path, config: ModelConfig) -> Checkpoint:
    write_synthetic_checkpoint(directory, config, TOKENIZER)
    return Checkpoint.open(directory)


def _transformers_logits(source: Checkpoint, embeddings: torch.Tensor) -> torch.Tensor:
    """What transformers computes with a checkpoint's tensors, (length, vocabulary)."""
    sizes = source.config.decoder
    config = Qwen2Config(
        **sizes.model_dump(exclude={"rope_theta"}),
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
    )
    model = Qwen2ForCausalLM(config).eval()
    weights = {name: source.tensor(name).to(torch.float32) for name in decoder_tensors(sizes)}
    model.load_state_dict(weights, strict=not sizes.tie_word_embeddings)
    model.tie_weights()
    with torch.inference_mode():
        logits: torch.Tensor = model(inputs_embeds=embeddings[None]).logits[0]
    return logits


def _picture_tokens(source: Checkpoint, numbers: torch.Generator) -> torch.Tensor:
    config, siglip = source.config, source.config.siglip
    with torch.inference_mode():
        features = torch.randn(2, siglip.patches_per_side**2, siglip.hidden_size, generator=numbers)
        tokens = [load_projector(source)(features).flatten(0, 1)[::17]]
        if config.eagle is not None:
            tokens.append(load_eagle(source, config.eagle)(torch.randn(16, 588, generator=numbers), 4, 4))
    return torch.cat(tokens)


@pytest.mark.parametrize("name", ALL)
def test_a_rotated_model_is_the_same_function(tmp_path: Path, name: str) -> None:
    plain = _open(tmp_path / "c", ALL[name])
    turned = RotatedCheckpoint(plain, ROTATION)
    assert not turned.config.decoder.tie_word_embeddings
    inputs, logits = [], []
    for source in (plain, turned):
        pictures = _picture_tokens(source, torch.Generator().manual_seed(0))
        text = plain.rows(EMBEDDINGS, 5, 25).to(torch.float32)
        if source is turned:
            text = torch.from_numpy(ROTATION.turn(text.numpy())).to(torch.float32)
        inputs.append(torch.cat([text, pictures]))
        logits.append(_transformers_logits(source, inputs[-1]))
    expected = ROTATION.turn(inputs[0].numpy())
    assert np.abs(inputs[1].numpy() - expected).max() < 1e-5 * np.abs(expected).max()
    assert (logits[1] - logits[0]).abs().max() < 1e-4
    assert logits[0].abs().max() > 0.5


@pytest.mark.parametrize("name", ["released", "width 40"])
def test_a_row_is_the_same_however_it_is_read(tmp_path: Path, name: str) -> None:
    turned = RotatedCheckpoint(_open(tmp_path / "c", ALL[name]), ROTATION)
    for tensor in required_tensors(turned.config):
        whole = turned.tensor(tensor)
        assert (whole.dtype, tuple(whole.shape)) == (turned.dtype(tensor), turned.shape(tensor))
        middle = len(whole) // 3
        pieces = [turned.rows(tensor, 0, middle), turned.rows(tensor, middle, len(whole))]
        assert torch.allclose(torch.cat(pieces).float(), whole.float(), rtol=1e-6, atol=0), tensor
        assert torch.equal(turned.rows(tensor, 0, len(whole)), whole)


def test_rows_that_are_changed_stay_as_they_are_in_the_checkpoint(tmp_path: Path) -> None:
    turned, name = (
        RotatedCheckpoint(_open(tmp_path / "c", small_config()), ROTATION),
        "model.layers.0.mlp.down_proj.weight",
    )
    first = turned.rows(name, 0, 8)
    kept = first.clone()
    first.zero_()
    assert torch.equal(turned.rows(name, 0, 8), kept)
    with pytest.raises(CheckpointError, match=r"has no rows 250\.\.257"):
        turned.rows(name, 250, 257)


def test_norms_have_no_gain_and_other_tensors_stay(tmp_path: Path) -> None:
    plain = _open(tmp_path / "c", small_config())
    turned = RotatedCheckpoint(plain, ROTATION)
    norms = [name for name in decoder_tensors(turned.config.decoder) if name.endswith("norm.weight")]
    assert len(norms) == 5
    for name in norms:
        assert torch.equal(turned.tensor(name), torch.ones(256))
    same = [name for name in required_tensors(plain.config) if torch.equal(turned.tensor(name), plain.tensor(name))]
    biases = [f"model.layers.{index}.self_attn.{letter}_proj.bias" for index in (0, 1) for letter in "qk"]
    towers = [name for name in required_tensors(plain.config) if "vision_tower" in name and "merger.mlp.2" not in name]
    projector = [name for name in required_tensors(plain.config) if "mm_projector" in name and "embedding" not in name]
    assert set(same) == {*biases, *towers, *projector}


def test_embeddings_of_16_bits_become_fp16_and_round_finer_than_bf16(tmp_path: Path) -> None:
    plain = _open(tmp_path / "c", small_config())
    turned = RotatedCheckpoint(plain, ROTATION)
    exact = torch.from_numpy(ROTATION.turn(plain.tensor(EMBEDDINGS).to(torch.float64).numpy()))
    found = turned.tensor(EMBEDDINGS)
    assert found.dtype == torch.float16
    error = (found.to(torch.float64) - exact).norm() / exact.norm()
    coarse = (exact.to(torch.bfloat16).to(torch.float64) - exact).norm() / exact.norm()
    assert error < 3e-4 and coarse > 4 * error


def test_embeddings_of_32_bits_stay_so(tmp_path: Path) -> None:
    _open(tmp_path / "c", small_config()).close()
    tensors = load_file(tmp_path / "c" / "model.safetensors")
    tensors[EMBEDDINGS] = tensors[EMBEDDINGS].to(torch.float32) * 1e6
    save_file(tensors, tmp_path / "c" / "model.safetensors")
    turned = RotatedCheckpoint(Checkpoint.open(tmp_path / "c"), ROTATION)
    assert turned.tensor(EMBEDDINGS).dtype == turned.dtype(EMBEDDINGS) == torch.float32
    tensors[EMBEDDINGS] = tensors[EMBEDDINGS].to(torch.bfloat16)
    save_file(tensors, tmp_path / "c" / "model.safetensors")
    turned = RotatedCheckpoint(Checkpoint.open(tmp_path / "c"), ROTATION)
    with pytest.raises(CheckpointError, match="too large for fp16 once rotated: export with --rotation none"):
        turned.tensor(EMBEDDINGS)


def test_a_tied_output_matrix_is_not_the_embeddings(tmp_path: Path) -> None:
    plain = _open(tmp_path / "c", small_config(tied=True))
    turned = RotatedCheckpoint(plain, ROTATION)
    assert OUTPUT_WEIGHT not in plain and OUTPUT_WEIGHT in turned
    gain = plain.tensor("model.norm.weight").to(torch.float64)
    expected = ROTATION.turn((plain.tensor(EMBEDDINGS).to(torch.float64) * gain).numpy())
    assert np.abs(turned.rows(OUTPUT_WEIGHT, 7, 30).numpy() - expected[7:30]).max() < 1e-6


def test_another_rotation_is_another_fingerprint(tmp_path: Path) -> None:
    plain = _open(tmp_path / "c", small_config())
    prints = {plain.fingerprint(), *(RotatedCheckpoint(plain, Rotation(seed=seed)).fingerprint() for seed in (0, 1))}
    assert len(prints) == 3
