"""How many bits a matrix gets follows from what each format would cost its output."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from valley2_edge.bundle import open_bundle
from valley2_edge.export.decoder.layers import split_parts
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.rounding.options import RoundingOptions
from valley2_edge.export.rounding.sensitivity import SensitivityMethod
from valley2_edge.quantize.hessian import Hessian
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.mixed_precision import stored_bits
from valley2_edge.quantize.rtn import dequantize_rows, quantize_rows
from valley2_edge.runtime.model import Valley2

CHECKPOINT = Path(__file__).parents[2] / "golden" / "ckpt" / "eagle_ovis"
FORMATS = (MatrixFormat("int4", 128), MatrixFormat("int4", 32), MatrixFormat("int8", 128))
FINE = MatrixFormat("int8", 32)


def _survey(method: SensitivityMethod, weights: torch.Tensor, inputs: torch.Tensor) -> None:
    hessian = Hessian(weights.shape[1], "m")
    hessian.add(inputs)
    rounding = method.start(FINE, "m", hessian)
    for rows in weights.split(24):
        rounding.quantize(rows)
    rounding.record()


def test_losses_are_the_relative_squared_errors_of_the_outputs(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(64, 128, generator=generator)
    inputs = torch.randn(300, 128, generator=generator) * torch.linspace(0.1, 3, 128)
    method = SensitivityMethod(tmp_path / "losses.json", FORMATS)
    _survey(method, weights, inputs)
    outputs = inputs @ weights.T
    for found, candidate in zip(method._losses["m"], FORMATS, strict=True):
        stored = dequantize_rows(quantize_rows(weights, candidate, "m"), candidate)
        exact = (inputs @ stored.T - outputs).square().sum() / outputs.square().sum()
        assert found == pytest.approx(float(exact), rel=1e-3)


def test_a_format_whose_groups_do_not_fit_is_no_choice(tmp_path: Path) -> None:
    method = SensitivityMethod(tmp_path / "losses.json", FORMATS)
    _survey(method, torch.randn(32, 96), torch.randn(200, 96))
    assert [loss == float("inf") for loss in method._losses["m"]] == [True, False, True]


def test_what_was_found_is_kept_for_a_second_start(tmp_path: Path) -> None:
    first = SensitivityMethod(tmp_path / "losses.json", FORMATS)
    _survey(first, torch.randn(32, 128), torch.randn(200, 128))
    second = SensitivityMethod(tmp_path / "losses.json", FORMATS)
    assert second._losses == first._losses


@pytest.mark.slow
def test_export_keeps_within_the_average_and_uses_it(tmp_path: Path) -> None:
    from valley2_edge.export.pipeline import export_bundle

    options = RoundingOptions(calibration="builtin", calibration_samples=2, quality_samples=0, average_bits=5.5)
    bundle = open_bundle(export_bundle(CHECKPOINT, tmp_path / "bundle", ExportOptions(rounding=options)))
    matrices = [row for row in bundle.manifest.decoder.matrices if row.name != "lm_head"]
    assert len({(row.precision, row.group_size) for row in matrices}) > 1
    layers, _ = split_parts(bundle.manifest.architecture.decoder)
    sizes = {matrix.name: (matrix.rows, matrix.columns) for layer in layers for matrix in layer.matrices}
    bits = weights = 0
    for row in matrices:
        rows, columns = sizes[row.name]
        group_size = row.group_size or bundle.manifest.decoder.group_size
        bits += stored_bits(MatrixFormat(row.precision, group_size), rows, columns)
        weights += rows * columns
    assert 5.0 < bits / weights <= 5.5
    with Valley2.load(bundle.directory) as model:
        assert "".join(model.chat("What is this?", max_new_tokens=4))
