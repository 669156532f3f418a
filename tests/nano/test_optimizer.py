"""Hidden matrices get orthogonal updates, shared out evenly among the processes; the rest is AdamW's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from valley2_nano.model import Valley2Nano
from valley2_nano.optimizer import Optimizer, _orthogonal, _shares


@pytest.mark.parametrize("shape", [(24, 96), (32, 96), (96, 32)])
def test_the_singular_values_of_an_update_are_around_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(_orthogonal(torch.randn(shape)))
    assert float(values.min()) > 0.5 and float(values.max()) < 1.3


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_work_is_shared_evenly(workers: int) -> None:
    costs = [7, 1, 5, 3, 3, 2, 6, 4]
    owners = _shares(costs, workers)
    totals = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == one) for one in range(workers)]
    assert sum(totals) == sum(costs)
    assert max(totals) - min(totals) <= 1


def test_parameters_without_a_gradient_stay(model: Valley2Nano) -> None:
    trained = Valley2Nano(model.config)
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    optimizer = Optimizer(trained, muon=True, weight_decay=0.1)
    head = trained.lm_head.weight
    head.grad = torch.ones_like(head)
    optimizer.step(0.01)
    changed = {name for name, value in trained.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"lm_head.weight"}


def test_a_step_of_either_kind_lowers_a_loss() -> None:
    for muon in (True, False):
        torch.manual_seed(0)
        model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(8, 8)]), "head": nn.Linear(8, 1)})
        optimizer = Optimizer(model, muon=muon, weight_decay=0.0)
        value = torch.randn(32, 8)
        losses = []
        for _ in range(30):
            loss = (model["head"](torch.tanh(model["layers"][0](value))) - value[:, :1]).square().mean()
            torch.autograd.backward(loss)
            losses.append(float(loss.detach()))
            optimizer.step(0.02)
            model.zero_grad()
        assert losses[-1] < 0.5 * losses[0], muon
