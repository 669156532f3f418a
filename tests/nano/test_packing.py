"""Packed dialogues give the losses and gradients of separate samples."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from valley2_nano.model import Valley2Nano
from valley2_nano.packing import PackedBatch, pack
from valley2_nano.samples import Sample, SampleMaker

TURNS = [("What is the price?", "$74.95"), ("What is the colour of it?", "red"), ("Which shoe?\nA. 1\nB. 2", "A")]


def packed(model: Valley2Nano, samples: list[Sample]) -> PackedBatch:
    return pack(samples, model.config.projector.tokens_per_side**2, model.config.siglip.patches_per_side**2)


def losses(model: Valley2Nano, samples: list[Sample]) -> torch.Tensor:
    batch = packed(model, samples)
    return functional.cross_entropy(model(batch), batch.targets, reduction="none")


def three_samples(maker: SampleMaker, pictures: list[NDArray[np.uint8]]) -> list[Sample]:
    clip = [pictures[2]] * 8
    return [maker.sample(pictures[:1], TURNS), maker.sample([], TURNS[:2]), maker.sample(clip, TURNS[1:], video=True)]


def test_packed_losses_equal_those_of_separate_samples(
    model: Valley2Nano, maker: SampleMaker, pictures: list[NDArray[np.uint8]]
) -> None:
    samples = three_samples(maker, pictures)
    separate = [Sample(sample.pictures, (turn,)) for sample in samples for turn in sample.turns]
    with torch.no_grad():
        together = losses(model, samples)
        alone = torch.cat([losses(model, [sample]) for sample in separate])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_packed_gradients_equal_those_of_separate_samples(
    model: Valley2Nano, maker: SampleMaker, pictures: list[NDArray[np.uint8]]
) -> None:
    samples = three_samples(maker, pictures)
    parameters = list(model.parameters())
    together = torch.autograd.grad(losses(model, samples).sum(), parameters)
    alone = [torch.zeros_like(parameter) for parameter in parameters]
    for sample in samples:
        for turn in sample.turns:
            loss = losses(model, [Sample(sample.pictures, (turn,))]).sum()
            parts = torch.autograd.grad(loss, parameters, allow_unused=True)
            alone = [total if part is None else total + part for total, part in zip(alone, parts, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert (one - other).norm() <= 1e-3 * other.norm() + 1e-6


def test_pictures_and_prompt_occur_once_in_a_dialogue(
    model: Valley2Nano, maker: SampleMaker, pictures: list[NDArray[np.uint8]]
) -> None:
    sample = maker.sample(pictures[:1], TURNS)
    (span,) = packed(model, [sample]).spans
    vision = len(sample.pictures[0].stitched) + len(sample.pictures[0].eagle_patches) // 4
    assert span.prefix > vision
    assert all(rows < 60 for rows in span.turns)


def test_a_turn_weighs_as_the_root_of_its_answers_length(model: Valley2Nano, maker: SampleMaker) -> None:
    sample = maker.sample([], [("Name it.", "A"), ("Describe it.", "It is the price of shoe 1, and it is red.")])
    batch = packed(model, [sample])
    first, second = (len(turn.answer) for turn in sample.turns)
    assert (first, int(batch.weights.numel())) == (2, first + second)
    ratio = float(batch.weights[first:].sum() / batch.weights[:first].sum())
    assert abs(ratio - (second / first) ** 0.5) < 1e-4


def test_tags_in_an_answer_are_control_tokens(maker: SampleMaker, model: Valley2Nano) -> None:
    turn = maker.turn("What <SUMMARY> is it?", "<SUMMARY>red</SUMMARY>", 0)
    summary = model.config.decoder.vocab_size - 8
    assert (turn.answer[0], turn.answer[-2], turn.answer[-1]) == (summary, summary + 1, model.config.stop_tokens[0])
    assert summary not in turn.prompt
