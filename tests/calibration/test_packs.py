"""Samples that share a sequence: none sees another, and each row is what it would be alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding

from valley2_edge.calibration.activations import FileActivations, open_activations
from valley2_edge.calibration.decoder_block import attend, gate, rms_norm
from valley2_edge.calibration.encode import NO_TARGET
from valley2_edge.calibration.packs import Pack, pack_samples
from valley2_edge.config import DecoderConfig
from valley2_edge.errors import ExportError

pytestmark = pytest.mark.slow

CONFIG = DecoderConfig(
    hidden_size=256, intermediate_size=384, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2
)


@pytest.fixture(scope="module")
def layer() -> Qwen2DecoderLayer:
    """transformers' own layer with random weights."""
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=256,
        intermediate_size=384,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": CONFIG.rope_theta},
    )
    config._attn_implementation = "eager"
    made = Qwen2DecoderLayer(config, 0).eval()
    for parameter in made.parameters():
        parameter.data.normal_(0, 0.1)
    made.rotary = Qwen2RotaryEmbedding(config)
    return made


def _ours(layer: Qwen2DecoderLayer, pack: Pack, hidden: torch.Tensor) -> torch.Tensor:
    weights = {name: value.detach() for name, value in layer.named_parameters()}
    qkv = torch.cat([weights[f"self_attn.{letter}_proj.weight"] for letter in "qkv"])
    bias = torch.cat([weights[f"self_attn.{letter}_proj.bias"] for letter in "qkv"])
    normed = rms_norm(hidden, weights["input_layernorm.weight"], CONFIG.rms_norm_eps)
    hidden = hidden + attend(normed @ qkv.T + bias, pack, CONFIG) @ weights["self_attn.o_proj.weight"].T
    normed = rms_norm(hidden, weights["post_attention_layernorm.weight"], CONFIG.rms_norm_eps)
    gate_up = torch.cat([weights["mlp.gate_proj.weight"], weights["mlp.up_proj.weight"]])
    return hidden + gate(normed @ gate_up.T) @ weights["mlp.down_proj.weight"].T


def _theirs(layer: Qwen2DecoderLayer, rows: torch.Tensor) -> torch.Tensor:
    """One sequence alone, with a causal mask."""
    length = len(rows)
    positions = torch.arange(length)[None]
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    rotary = layer.rotary(rows[None], positions)
    with torch.no_grad():
        output = layer(rows[None], attention_mask=mask, position_ids=positions, position_embeddings=rotary)
    return (output[0] if isinstance(output, tuple) else output).reshape(length, -1)


def test_packed_branches_equal_separate_sequences_of_transformers(layer: Qwen2DecoderLayer, make_sample) -> None:
    samples = [make_sample(11, (5, 3)), make_sample(0, (6,)), make_sample(4, (2,))]
    ((pack, embeddings),) = pack_samples(samples)
    packed = _ours(layer, pack, embeddings)
    compared = 0
    for span in pack.spans:
        prefix = slice(span.start, span.start + span.prefix)
        start = prefix.stop
        for rows in span.branches:
            branch = slice(start, start + rows)
            alone = _theirs(layer, torch.cat((embeddings[prefix], embeddings[branch])))
            together = torch.cat((packed[prefix], packed[branch]))
            assert torch.dist(alone, together) < 1e-5 * alone.norm()
            start, compared = branch.stop, compared + 1
    assert compared == 4


def test_a_pack_is_closed_before_it_grows_too_long(make_sample) -> None:
    samples = [make_sample(4, (3,)), make_sample(2, (3,)), make_sample(20, (3,)), make_sample(1, (2,))]
    packs = [pack for pack, _ in pack_samples(samples, max_tokens=12)]
    assert [pack.rows for pack in packs] == [12, 23, 3]
    assert [len(pack.spans) for pack in packs] == [2, 1, 1]


def test_positions_begin_anew_and_targets_stand_before_their_tokens(make_sample) -> None:
    ((pack, _),) = pack_samples([make_sample(2, (3, 2)), make_sample(0, (2,))])
    assert pack.positions().tolist() == [0, 1, 2, 3, 4, 2, 3, 0, 1]
    assert pack.targets.tolist() == [NO_TARGET] * 3 + [7, 9, 7, 9, 7, 9]
    assert pack.target_rows.tolist() == [3, 4, 5, 6, 7, 8]


def test_a_pack_survives_its_description(make_sample) -> None:
    ((pack, _),) = pack_samples([make_sample(2, (3, 2)), make_sample(0, (2,))])
    again = Pack.from_description(pack.describe())
    assert again.spans == pack.spans
    assert torch.equal(again.targets, pack.targets)
    assert torch.equal(again.is_picture, pack.is_picture)


def test_activations_on_disk_equal_those_in_memory(tmp_path: Path) -> None:
    path, lengths = tmp_path / "a.bin", [3, 5]
    rows = [torch.randn(length, 4) for length in lengths]
    memory = open_activations(path, lengths, 4, in_memory=True, saved=False)
    for pack in (1, 0):
        memory.write(pack, rows[pack])
    memory.save(path)
    for in_memory in (True, False):
        again = open_activations(path, lengths, 4, in_memory=in_memory, saved=True)
        assert all(torch.equal(again.read(pack), rows[pack]) for pack in (0, 1))
        again.close()


def test_activations_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(12))
    with pytest.raises(ExportError, match="incomplete"):
        open_activations(path, [2], 4, in_memory=True, saved=True)
    with FileActivations(path, [2], 4) as stored, pytest.raises(ExportError, match="shorter"):
        stored.read(0)
