"""What is asked about one set of pictures, and the small helpers that every kind of scene uses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from PIL import Image

_T = TypeVar("_T")


@dataclass(frozen=True)
class Choice:
    """A question with one right and three wrong options; nothing in their text tells which is right."""

    task: str
    question: str
    right: str
    wrong: tuple[str, str, str]

    def shuffled(self, random: Random) -> tuple[tuple[str, ...], int]:
        """The four options in random order, and the index of the right one."""
        options = [self.right, *self.wrong]
        random.shuffle(options)
        return tuple(options), options.index(self.right)


@dataclass(frozen=True)
class Open:
    """A question that is answered in words."""

    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class Scene:
    """Pictures, or the frames of a clip, with everything that can be asked about them."""

    pictures: tuple[Image.Image, ...]
    """Pictures in mode RGB."""
    video: bool
    caption: str
    """What can be seen, in one line."""
    choices: tuple[Choice, ...]
    opens: tuple[Open, ...]


def choice(random: Random, task: str, questions: Sequence[str], right: str, others: Iterable[str]) -> Choice:
    """A choice between the right option and three of the others, drawn at random."""
    pool = [option for option in others if option != right]
    first, second, third = random.sample(pool, 3)
    return Choice(task, random.choice(questions), right, (first, second, third))


def grid_choice(task: str, question: str, template: str, first: tuple[str, str], second: tuple[str, str]) -> Choice:
    """A choice among the four pairs of two attributes with two values each; no option is the most typical one.

    Args:
        task: One of the benchmark's.
        question: The question as it is asked.
        template: With places {0} and {1}.
        first: The right and the wrong value of the first attribute.
        second: The same of the second.
    """
    right, *wrong = [template.format(a, b) for a in first for b in second]
    return Choice(task, question, right, (wrong[0], wrong[1], wrong[2]))


def another(random: Random, pool: Sequence[_T], value: _T) -> _T:
    """One of the pool that is not `value`."""
    return random.choice([other for other in pool if other != value])


def yes_or_no(true: bool) -> str:
    """The answer to whether something is so."""
    return "yes" if true else "no"


def matching(random: Random, question: str, pool: Sequence[str], value: str) -> list[Open]:
    """Two questions with the value in the place {0}, which is so, and two with others, which are not.

    Args:
        random: Source of random numbers.
        question: With a place {0}.
        pool: All values that there are.
        value: The right value.
    """
    others = random.sample([other for other in pool if other != value], 2)
    asked = [value, value, *others]
    return [Open("match", question.format(one), yes_or_no(one == value)) for one in asked]


def window(random: Random, pool: Sequence[_T], value: _T, size: int = 4) -> list[_T]:
    """`size` neighbours of a sorted pool, `value` among them at a random place, the rest in order."""
    place = pool.index(value)
    start = min(max(0, place - random.randrange(size)), len(pool) - size)
    return list(pool[start : start + size])
