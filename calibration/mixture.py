"""Chooses the open questions about a scene: the families of kinds in turn, and questions for yes or no seldom.

A scene offers many more questions with the answer yes or no than others, because training needs them. A sample that
drew evenly would ask little else, and an answer of one token says little about a rounded model.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from valley2_edge.errors import InputError
from valley2_edge.eval.questions.scene import Open

READING = ("read_price", "read_name")
"""Kinds of question that are answered by reading characters."""
YES_OR_NO = ("match", "same")
"""Kinds of question whose answer is yes or no."""
YES_OR_NO_SHARE = 1 / 8
"""Share of the samples that have one such question; the others have none, unless there is nothing else to ask."""
_FAMILIES: dict[str, tuple[str, ...]] = {
    "reading": READING,
    "describing": ("describe", "list", "clip", "difference"),
    "json": ("attributes",),
    "detail": (
        "colour", "kind", "count", "rating", "badge", "several", "motion", "moment", "step", "clip_first", "clip_last",
    ),
    "comparing": ("which", "which_badge", "which_colour", "which_product", "which_count", "which_stars"),
    "yes or no": YES_OR_NO,
}  # fmt: skip


def family(kind: str) -> str:
    """The family of a kind of open question.

    Args:
        kind: The kind.

    Raises:
        InputError: The kind belongs to no family.
    """
    for name, kinds in _FAMILIES.items():
        if kind in kinds:
            return name
    raise InputError(f"The kind of question {kind!r} belongs to no family of the calibration sets.")


def draw_opens(random: Random, opens: Sequence[Open], count: int) -> list[Open]:
    """Draws open questions about one scene from its families in turn; a question about reading is always among them.

    Args:
        random: Source of random numbers.
        opens: All questions that can be asked; one that occurs twice is asked only once.
        count: Largest number of questions.

    Raises:
        InputError: A kind belongs to no family.
    """
    by_family: dict[str, list[Open]] = {}
    for one in random.sample(list(opens), len(opens)):
        same = by_family.setdefault(family(one.kind), [])
        if all(one.question != other.question for other in same):
            same.append(one)
    closed = by_family.pop("yes or no", [])
    if closed and (not by_family or random.random() < YES_OR_NO_SHARE):
        by_family["yes or no"] = closed if not by_family else closed[:1]
    turns = random.sample(list(by_family), len(by_family))
    turns.sort(key=lambda name: name not in ("reading", "yes or no"))  # few scenes have these, so they come first
    chosen: list[Open] = []
    while len(chosen) < count and any(by_family.values()):
        for name in turns:
            if by_family[name] and len(chosen) < count:
                chosen.append(by_family[name].pop())
    return chosen
