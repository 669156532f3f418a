"""What to change when a question does not fit the context: computed with the same arithmetic as the question itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from valley2_edge.config import ModelConfig
from valley2_edge.errors import BudgetError
from valley2_edge.policy import Policy
from valley2_edge.runtime.core.pixels import plan_picture

Size = tuple[int, int]
"""Width and height, pixels."""

_ANSWER_POSITIONS = (64, 1)
"""Positions to leave for the answer: what an answer takes, or else what a token takes."""
_SMALL_CAPS = (128, 64)
"""Eagle tokens of a picture, fewer than which the branch is better left out."""
_PAGE = 256
"""Positions by which the KV cache grows."""


@dataclass(frozen=True)
class Question:
    """A question's pictures and what they become."""

    sizes: Sequence[Size]
    """Width and height of each picture, or of each frame of a video."""
    video: bool
    text_tokens: int
    policy: Policy
    model: ModelConfig

    @property
    def picture_tokens(self) -> int:
        """Positions that the pictures take."""
        return picture_tokens(Counter(self.sizes), self.policy, self.model, video=self.video)


@dataclass(frozen=True)
class Context:
    """The context that a question is to enter."""

    length: int
    """Positions."""
    used: int
    longest: int
    """Positions that the model was trained for."""
    fresh_text_tokens: int
    """Tokens that the same question takes when it begins a conversation."""


def picture_tokens(sizes: Counter[Size], policy: Policy, model: ModelConfig, *, video: bool) -> int:
    """Positions that pictures take in the context.

    Args:
        sizes: How many pictures there are of each size.
        policy: How they become tokens.
        model: The architecture.
        video: They are frames of a video.

    Raises:
        InputError: A picture is too thin, or the caps leave no token.
    """
    options = policy.geometry_options(model, sizes.total(), video)
    total = 0
    for (width, height), count in sizes.items():
        plan = plan_picture(width, height, options)
        total += count * (plan.siglip_tokens + plan.eagle_tokens)
    return total


def full_context(question: Question, context: Context) -> BudgetError:
    """The error for a question that does not fit, which says what would make it fit.

    Args:
        question: What was asked.
        context: Where it has no room.
    """
    vision, free = question.picture_tokens, context.length - context.used
    text = (
        f"The question needs {question.text_tokens + vision} positions ({question.text_tokens} for text, {vision} for "
        f"pictures) and one for the answer, but only {free} of the context's {context.length} are free"
    )
    ways: list[str] = []
    for answer in _ANSWER_POSITIONS:
        ways = ways or list(_ways(question, context, answer))
    if not ways:
        return BudgetError(f"{text}; ask a shorter question.")
    return BudgetError(f"{text}. It would fit with {' or '.join(ways)}.")


def _ways(question: Question, context: Context, answer: int) -> Iterator[str]:
    """What would make the question fit: smaller pictures, fewer, a longer context, a new conversation."""
    free = context.length - context.used - answer
    if question.sizes:
        for words, policy in _smaller(question.policy, question.video or len(question.sizes) > 1):
            smaller = replace(question, policy=policy)
            if smaller.text_tokens + smaller.picture_tokens <= free:
                yield words
                break
    fewer = _fewer(question, free)
    if fewer:
        yield f"--frames {fewer}" if question.video else f"the first {fewer} of the {len(question.sizes)} pictures"
    needed = context.used + question.text_tokens + question.picture_tokens + answer
    longer = -(-needed // _PAGE) * _PAGE
    if context.length < needed <= context.longest:
        yield f"--context-length {min(longer, context.longest)}"
    if context.used and context.fresh_text_tokens + question.picture_tokens + answer <= context.length:
        yield "a new conversation (/reset)"


def _smaller(policy: Policy, several: bool) -> Iterator[tuple[str, Policy]]:
    """Options with which pictures take fewer positions, those that lose least first."""
    cap = policy.eagle_tokens(several)[1]
    presets: list[tuple[str, Policy]] = []
    if policy.eagle:
        for name in ("document", "balanced", "fast"):
            chosen = replace(policy, eagle_preset=name, eagle_max_tokens=None)
            if chosen.eagle_tokens(several)[1] < cap:
                presets.append((f"--eagle-preset {name}", chosen))
        for tokens in _SMALL_CAPS:
            if max(policy.eagle_min_tokens or 0, 1) <= tokens < cap:
                presets.append((f"--eagle-max-tokens {tokens}", replace(policy, eagle_max_tokens=tokens)))
    yield from presets
    for words, chosen in (("", policy), *presets[-1:]):
        if policy.tiles:
            yield f"{words} --no-tiles".strip(), replace(chosen, tiles=False)
    if policy.eagle:
        yield "--no-eagle", replace(policy, eagle=False)
        if policy.tiles:
            yield "--no-eagle --no-tiles", replace(policy, eagle=False, tiles=False)


def _fewer(question: Question, free: int) -> int:
    """The most of the first pictures that fit; 0: not even one, or all of them."""
    low, high = 0, len(question.sizes)
    if high < 2:
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        part = replace(question, sizes=question.sizes[:middle])
        low, high = (middle, high) if part.text_tokens + part.picture_tokens <= free else (low, middle)
    return low
