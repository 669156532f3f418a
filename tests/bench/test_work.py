"""The work that times are held against, beside figures of the released model that others counted."""

from __future__ import annotations

import pytest

from valley2_edge.bench.work import (
    eagle_operations,
    layer_matrices,
    prefill_operations,
    projector_operations,
    siglip_operations,
)
from valley2_edge.config import DecoderConfig, EagleConfig, ProjectorConfig, SiglipConfig

LAYER_WEIGHTS = 233_046_016
LAST_LAYER_QKV = 3584 * 4608
HEAD_WEIGHTS = 151_679 * 3584


def test_tile_of_the_released_siglip_takes_666_gflop() -> None:
    assert siglip_operations(SiglipConfig()) == pytest.approx(666.4e9, rel=1e-3)


def test_tile_of_the_released_projector_takes_64_gflop() -> None:
    assert projector_operations(ProjectorConfig(), SiglipConfig()) == pytest.approx(64.09e9, rel=1e-3)


@pytest.mark.parametrize(("tokens", "operations"), [(1196, 9.88e12), (700, 4.87e12)])
def test_picture_in_the_released_eagle(tokens: int, operations: float) -> None:
    assert eagle_operations(EagleConfig(), 4 * tokens) == pytest.approx(operations, rel=2e-3)


def test_projectors_of_other_checkpoints_are_products_of_their_matrices() -> None:
    siglip = SiglipConfig(image_size=56)  # 4 x 4 patches
    sizes = {"input_size": 8, "mlp_hidden_dim": 16, "output_size": 4, "tokens_per_side": 2}
    shuffle = ProjectorConfig(type="mlp_pixel_shuffle", pixelshuffle_downsample_ratio=2, **sizes)
    assert projector_operations(shuffle, siglip) == 2 * 4 * (32 * 16 + 16 * 4)
    convolution = ProjectorConfig(type="conv_adapter", **sizes)
    assert projector_operations(convolution, siglip) == 2 * (16 * (8 * 16 + 16 * 4) + 4 * 9 * 4 * 4)


def test_layer_of_the_released_decoder() -> None:
    assert sum(matrix.weights for matrix in layer_matrices(DecoderConfig(), 0)) == LAYER_WEIGHTS


def test_one_position_multiplies_with_every_weight() -> None:
    assert prefill_operations(DecoderConfig(), 1) == 2 * (28 * LAYER_WEIGHTS + HEAD_WEIGHTS)


def test_further_positions_need_only_keys_and_values_of_the_last_layer() -> None:
    config = DecoderConfig()
    further = prefill_operations(config, 101) - prefill_operations(config, 1)
    assert further == 2 * 100 * (27 * LAYER_WEIGHTS + LAST_LAYER_QKV)
