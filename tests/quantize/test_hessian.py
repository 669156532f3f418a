"""The second moment of the inputs: weights of tokens, partial sums, files, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from quantize_inputs import correlated
from safetensors.torch import load_file, save_file

from valley2_edge.errors import ExportError, InputError, NumericError
from valley2_edge.quantize import hessian as hessian_module
from valley2_edge.quantize.hessian import Hessian
from valley2_edge.quantize.modality import TokenCounts, picture_token_weight, token_weights


def _relative_difference(matrix: torch.Tensor, expected: torch.Tensor) -> float:
    return float((matrix.double() - expected).norm() / expected.norm())


def test_it_is_the_mean_of_outer_products() -> None:
    inputs = correlated(1000, 48)
    hessian = Hessian(48, "m")
    for batch in torch.split(inputs, 170):
        hessian.add(batch)
    expected = inputs.double().T @ inputs.double() / 1000
    assert _relative_difference(hessian.matrix, expected) < 1e-6
    assert hessian.token_count == 1000 and hessian.weight_total == 1000


def test_wide_ones_are_summed_in_panels_and_symmetric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hessian_module, "_PANEL", 20)
    inputs = correlated(300, 48)
    hessian = Hessian(48, "m")
    hessian.add(inputs[:100])
    hessian.add(inputs[100:200])
    restored = Hessian.from_tensors(hessian.tensors(), "m")
    restored.add(inputs[200:])
    assert _relative_difference(restored.matrix, inputs.double().T @ inputs.double() / 300) < 1e-6
    assert torch.equal(restored.matrix[:20, 20:], restored.matrix[20:, :20].T)


def test_a_token_of_weight_3_counts_like_three_tokens() -> None:
    inputs = correlated(90, 32)
    weights = torch.ones(90)
    weights[20:40] = 3
    weighted, repeated = Hessian(32, "m"), Hessian(32, "m")
    weighted.add(inputs, weights)
    repeated.add(torch.cat((inputs, inputs[20:40], inputs[20:40])))
    assert _relative_difference(weighted.matrix, repeated.matrix.double()) < 1e-6
    assert weighted.weight_total == 130


def test_tokens_of_weight_0_leave_no_trace() -> None:
    inputs = correlated(90, 32)
    hessian, rest = Hessian(32, "m"), Hessian(32, "m")
    hessian.add(inputs[:30], torch.zeros(30))
    hessian.add(inputs[30:])
    rest.add(inputs[30:])
    assert torch.equal(hessian.matrix, rest.matrix)


def test_half_precision_activations_are_summed_in_float32() -> None:
    inputs = (correlated(4000, 32) * 300).to(torch.bfloat16)
    hessian = Hessian(32, "m")
    for batch in torch.split(inputs, 500):
        hessian.add(batch)
    assert _relative_difference(hessian.matrix, inputs.double().T @ inputs.double() / 4000) < 1e-6


def test_merged_partial_sums_equal_the_whole() -> None:
    inputs = correlated(700, 32)
    whole, first, second = Hessian(32, "m"), Hessian(32, "m"), Hessian(32, "m")
    whole.add(inputs)
    first.add(inputs[:100], torch.full((100,), 0.5))
    second.add(inputs[100:], torch.full((600,), 0.5))
    first.merge(second)
    first.merge(Hessian(32, "m"))
    assert _relative_difference(first.matrix, whole.matrix.double()) < 1e-6
    assert first.token_count == 700 and first.weight_total == 350


def test_merging_into_an_empty_one_copies_it() -> None:
    full, empty = Hessian(32, "m"), Hessian(32, "m")
    full.add(correlated(50, 32))
    empty.merge(full)
    assert torch.equal(empty.matrix, full.matrix)


def test_a_saved_one_goes_on_bit_for_bit(tmp_path: Path) -> None:
    inputs = correlated(300, 32)
    through, saved = Hessian(32, "m"), Hessian(32, "m")
    for hessian in (through, saved):
        hessian.add(inputs[:120], torch.linspace(0.1, 2, 120))
    save_file(saved.tensors(), tmp_path / "hessian.safetensors")
    restored = Hessian.from_tensors(load_file(tmp_path / "hessian.safetensors"), "m")
    for hessian in (through, restored):
        hessian.add(inputs[120:])
    assert torch.equal(through.matrix, restored.matrix)
    assert (restored.token_count, restored.weight_total) == (through.token_count, through.weight_total)


def test_a_damaged_file_is_refused() -> None:
    tensors = Hessian(32, "m").tensors()
    with pytest.raises(ExportError, match="incomplete"):
        Hessian.from_tensors({"matrix": tensors["matrix"]}, "m")
    with pytest.raises(ExportError, match="damaged"):
        Hessian.from_tensors(tensors | {"matrix": torch.zeros(32, 31)}, "m")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_an_input_that_is_not_finite_names_the_matrix_and_changes_nothing(bad: float) -> None:
    hessian = Hessian(32, "layers.7.mlp.down")
    hessian.add(correlated(50, 32))
    before = hessian.matrix.clone()
    inputs = correlated(20, 32)
    inputs[3, 5] = inputs[9, 0] = bad
    with pytest.raises(NumericError, match=r"layers\.7\.mlp\.down hold a NaN or an infinity in 2 of 20 tokens"):
        hessian.add(inputs)
    assert torch.equal(hessian.matrix, before) and hessian.token_count == 50


def test_inputs_whose_square_overflows_are_refused_before_use() -> None:
    hessian = Hessian(32, "lm_head")
    hessian.add(torch.full((4, 32), 1e30))
    with pytest.raises(NumericError, match="lm_head are too large"):
        hessian.check()


def test_an_empty_calibration_set_is_refused() -> None:
    hessian = Hessian(32, "lm_head")
    hessian.add(torch.empty(0, 32))
    with pytest.raises(ExportError, match="no calibration token reached lm_head"):
        hessian.check()


def test_shapes_and_weights_that_do_not_fit_are_refused() -> None:
    hessian = Hessian(32, "m")
    with pytest.raises(ExportError, match="32 columns"):
        hessian.add(torch.zeros(4, 31))
    with pytest.raises(ExportError, match="4 tokens"):
        hessian.add(torch.zeros(4, 32), torch.ones(5))
    with pytest.raises(ExportError, match="negative"):
        hessian.add(torch.zeros(4, 32), torch.tensor([1.0, 1.0, -1.0, 1.0]))
    with pytest.raises(ExportError, match="other partial sum 16"):
        hessian.merge(Hessian(16, "m"))


def test_balanced_pictures_weigh_as_much_together_as_the_text() -> None:
    weight = picture_token_weight("balanced", TokenCounts(picture=900, text=60))
    is_picture = torch.arange(960) < 900
    weights = token_weights(is_picture, weight)
    assert float(weights[is_picture].sum()) == pytest.approx(float(weights[~is_picture].sum()), rel=1e-5)
    assert weights.dtype == torch.float32


def test_the_weight_of_a_picture_token() -> None:
    counts = TokenCounts(picture=900, text=60)
    assert picture_token_weight(None, counts) == 1
    assert picture_token_weight(0.1, counts) == 0.1
    assert picture_token_weight("balanced", TokenCounts(picture=0, text=60)) == 1
    assert picture_token_weight("balanced", TokenCounts(picture=900, text=0)) == 1
    for bad in (-1.0, float("nan"), "equal"):
        with pytest.raises(InputError, match="weight of a picture token"):
            picture_token_weight(bad, counts)  # type: ignore[arg-type]
