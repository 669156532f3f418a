"""What is said before the first layer: counted work at a measured rate, in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch

from valley2_edge.calibration.packs import Pack, Span
from valley2_edge.config import DecoderConfig
from valley2_edge.export.rounding import duration_estimate
from valley2_edge.export.rounding.duration_estimate import (
    PRODUCT_COST,
    STEP_COST,
    ProductRates,
    estimate_seconds,
    measure_rates,
    opening_sentence,
)

SIZES = DecoderConfig(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=32,
    max_position_embeddings=256,
)
# Of one layer: qkv (128, 64), output (64, 64), gate_up (256, 64), down (64, 128); lm_head (32, 64).
ROUNDING = 2.0 * ((128 + 64 + 256) * 64**2 + 64 * 128**2) + 32 * 64**2
WEIGHTS = 2.0 * ((128 + 64 + 256) * 64 + 64 * 128) + 32 * 64
WORK = {"forward": 1e9, "hessian": 2e9, "factor": 3e9, "round": ROUNDING}
RATES = ProductRates(1e6, 1e6)


def _pack(*rows: int) -> Pack:
    spans, start = [], 0
    for count in rows:
        spans.append(Span(start, 0, (count,)))
        start += count
    return Pack(tuple(spans), torch.zeros(start, dtype=torch.bool), torch.full((start,), -1))


def test_every_kind_of_work_has_its_cost() -> None:
    products = sum(PRODUCT_COST[kind] * WORK[kind] for kind in ("forward", "hessian", "factor", "round"))
    assert estimate_seconds(SIZES, WORK, RATES) == pytest.approx((products + STEP_COST * WEIGHTS) / 1e6)


def test_what_lies_between_the_products_runs_on_the_processor() -> None:
    fast = estimate_seconds(SIZES, WORK, ProductRates(1e30, 1e6))
    assert fast == pytest.approx(STEP_COST * WEIGHTS / 1e6)


@pytest.mark.parametrize("kind", list(WORK))
def test_more_work_takes_longer(kind: str) -> None:
    more = {**WORK, kind: 2 * WORK[kind]}
    assert estimate_seconds(SIZES, more, RATES) > estimate_seconds(SIZES, WORK, RATES)
    assert estimate_seconds(SIZES, WORK, ProductRates(2e6, 2e6)) == estimate_seconds(SIZES, WORK, RATES) / 2


def test_nothing_left_takes_no_time() -> None:
    assert estimate_seconds(SIZES, dict.fromkeys(WORK, 0.0), RATES) == 0


def test_the_sentence_names_samples_tokens_time_and_the_quick_way() -> None:
    work = {**dict.fromkeys(WORK, 0.0), "forward": 6e9 / PRODUCT_COST["forward"]}
    packs = [_pack(700, 800), _pack(2000)]
    assert opening_sentence(SIZES, packs, work, (0, 3), RATES) == (
        "GPTQ on 3 samples (3,500 tokens): about 1 h 40 min on this machine; --method rtn takes a few minutes at most "
        "and loses about three times as much (docs/quantization.md)"
    )


def test_the_sentence_says_what_an_earlier_run_has_done() -> None:
    sentence = opening_sentence(SIZES, [_pack(10)], dict.fromkeys(WORK, 0.0), (2, 3), RATES)
    assert sentence.startswith("GPTQ on 1 sample (10 tokens): 2 of 3 layers are rounded already, about 1 s on this")


def test_the_rate_is_that_of_the_best_product_and_takes_half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    durations: Iterator[float] = iter([1e-9, 0.06, 0.05, 0.07, 0.06])

    def product(matrix: torch.Tensor) -> float:
        nonlocal now
        taken = next(durations)
        now += taken
        return taken

    monkeypatch.setattr(duration_estimate, "_seconds_of_a_product", product)
    monkeypatch.setattr(duration_estimate.time, "perf_counter", lambda: now)
    monkeypatch.setattr(duration_estimate.torch, "get_num_threads", lambda: 4)
    threads: list[int] = []
    monkeypatch.setattr(duration_estimate.torch, "set_num_threads", threads.append)
    rates = measure_rates(torch.device("cpu"))
    assert rates == ProductRates(4 * 512**3 / 0.05, 4 * 512**3 / 0.05)
    assert threads == [1, 4]
    assert now < 0.5 and not list(durations)  # the first product is not counted


def test_a_product_is_really_timed() -> None:
    rates = measure_rates(torch.device("cpu"))
    assert 1e7 < rates.device == rates.processor < 1e15
    assert re.search(r"about \d", opening_sentence(SIZES, [_pack(10)], WORK, (0, 3), rates))
