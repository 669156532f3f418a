"""What the built-in sets ask: a balanced choice of kinds, yes-or-no questions seldom."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from valley2_edge.calibration.builtin import DIALOGUE_EVERY, builtin_set
from valley2_edge.calibration.held_out import held_out_set
from valley2_edge.calibration.mixture import draw_opens, family
from valley2_edge.calibration.samples import Sample
from valley2_edge.errors import InputError
from valley2_edge.eval.questions.dialogue import SCENES
from valley2_edge.eval.questions.question import INSTRUCTION
from valley2_edge.eval.questions.scene import Open

SAMPLES = 96


def _shares(samples: list[Sample]) -> Counter[str]:
    """Shares of all turns by the form of question and answer."""
    found: Counter[str] = Counter()
    for sample in samples:
        for turn in sample.turns:
            if INSTRUCTION in turn.prompt:
                found["options"] += 1
            elif turn.answer in ("yes", "no"):
                found["yes or no"] += 1
            elif turn.answer.startswith("{"):
                found["json"] += 1
            elif len(turn.answer.split()) > 3:
                found["sentence"] += 1
            else:
                found["few words"] += 1
    total = found.total()
    return Counter({kind: count / total for kind, count in found.items()})


def test_every_kind_of_open_question_belongs_to_a_family() -> None:
    random = Random(0)
    kinds = {one.kind for _ in range(20) for make in SCENES.values() for one in make(random, "training").opens}
    assert {family(kind) for kind in kinds} == {"reading", "describing", "json", "detail", "comparing", "yes or no"}
    with pytest.raises(InputError, match="'riddle' belongs to no family"):
        family("riddle")


def test_every_family_gets_its_turn_before_any_gets_a_second() -> None:
    for seed in range(20):
        scene = SCENES["single"](Random(seed), "training")
        drawn = [family(one.kind) for one in draw_opens(Random(seed), scene.opens, 4)]
        assert len(set(drawn)) == 4 and "reading" in drawn


def test_a_question_is_asked_once() -> None:
    same = [Open("match", "Is it red?", "yes")] * 2 + [Open("match", "Is it blue?", "no")]
    assert sorted(one.question for one in draw_opens(Random(0), same, 5)) == ["Is it blue?", "Is it red?"]


def test_the_dialogues_of_the_builtin_set_ask_for_every_kind_of_answer_and_seldom_yes_or_no() -> None:
    samples = list(builtin_set(SAMPLES * DIALOGUE_EVERY).samples[:SAMPLES])
    assert all(sample.name.startswith("dialogue") for sample in samples)
    shares = _shares(samples)
    assert shares["yes or no"] < 0.03
    assert 0.3 < shares["options"] < 0.5
    assert shares["json"] > 0.03 and shares["sentence"] > 0.1 and shares["few words"] > 0.25
    assert {len(sample.images) for sample in samples} == {0, 1, 2, 3}
    assert 0.2 < sum(sample.video is not None for sample in samples) / SAMPLES < 0.35
    thinking = sum("<CONCLUSION>" in turn.answer for sample in samples for turn in sample.turns)
    assert 0.15 * SAMPLES < thinking < 0.3 * SAMPLES


def test_the_held_out_set_asks_seldom_for_yes_or_no_and_often_for_more_than_a_word() -> None:
    held = held_out_set(SAMPLES).samples
    opens = [turn for one in held for turn, kind in zip(one.sample.turns, one.kinds, strict=True) if kind != "choice"]
    assert sum(turn.answer in ("yes", "no") for turn in opens) < 0.06 * len(opens)
    assert sum(len(turn.answer.split()) > 1 for turn in opens) > 0.4 * len(opens)
    assert sum(turn.answer.startswith("{") for turn in opens) > 0.05 * len(opens)
    for one in held:
        assert one.kinds.count("open") + one.kinds.count("reading") <= 3
        prompts = [turn.prompt for turn in one.sample.turns]
        assert len(set(prompts)) == len(prompts)
