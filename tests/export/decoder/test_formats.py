"""Which format each matrix of the decoder gets."""

from __future__ import annotations

import pytest

from valley2_edge.bench.shapes import shape_config
from valley2_edge.config import DecoderConfig
from valley2_edge.export.decoder.formats import decoder_formats, fitted_formats
from valley2_edge.export.decoder.parts import DecoderMatrix, decoder_parts
from valley2_edge.precisions import DecoderPrecision
from valley2_edge.quantize.mixed_precision import stored_bits

RELEASED = shape_config("qwen2.5-7b", 2)


def _matrices(config: DecoderConfig) -> list[DecoderMatrix]:
    return [part for part in decoder_parts(config) if isinstance(part, DecoderMatrix)]


def test_int4_has_groups_of_64_in_down_alone_at_the_released_size() -> None:
    formats = fitted_formats(decoder_formats("int4"), RELEASED)
    layers = [matrix for matrix in _matrices(RELEASED) if matrix.name != "lm_head"]
    sizes = {matrix.name: formats.of(matrix.name).group_size for matrix in layers}
    assert {name for name, size in sizes.items() if size == 64} == {"layers.0.mlp.down", "layers.1.mlp.down"}
    assert set(sizes.values()) == {64, 128}
    assert formats.layers.group_size == 128
    stored = sum(stored_bits(formats.of(matrix.name), matrix.rows, matrix.columns) for matrix in layers)
    assert stored / sum(matrix.rows * matrix.columns for matrix in layers) == pytest.approx(4.242, abs=5e-4)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_int8_has_groups_of_64(precision: DecoderPrecision) -> None:
    formats = fitted_formats(decoder_formats(precision), RELEASED)
    stored = [formats.of(matrix.name) for matrix in _matrices(RELEASED)]
    assert {one.group_size for one in stored if one.precision == "int8"} == {64}


def test_columns_that_128_does_not_divide_get_groups_of_64() -> None:
    narrow = RELEASED.model_copy(update={"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3})
    formats = fitted_formats(decoder_formats("int4"), narrow)
    assert {formats.of(matrix.name).group_size for matrix in _matrices(narrow)} == {64}


def test_everything_else_stays_as_it_was_chosen() -> None:
    chosen = decoder_formats("int4", symmetric=True, lm_head_precision="fp16")
    formats = fitted_formats(chosen, RELEASED)
    assert formats.layers.symmetric and formats.of("layers.0.mlp.down").symmetric
    assert formats.lm_head.precision == formats.of("lm_head").precision == "fp16"
