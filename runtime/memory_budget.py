"""A limit on the memory of a model: which settings keep it, or what would."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from valley2_edge.bundle import Bundle
from valley2_edge.byte_count import format_bytes
from valley2_edge.errors import BudgetError
from valley2_edge.options import LoadOptions
from valley2_edge.runtime.core.memory import (
    ANY_PICTURE,
    MemoryPlan,
    MemorySettings,
    Size,
    expected_process_bytes,
)
from valley2_edge.runtime.planning import plan_bundle

Planner = Callable[[MemorySettings], MemoryPlan]

_PAGE = 256
"""Positions by which the KV cache grows."""
_TEXT_POSITIONS = 1024
"""Fewest positions for question and answer when the context is shortened."""
_SMALLEST_EAGLE = 64
"""Tokens of a picture, fewer than which the branch is better left out."""
_CHUNKS = (128, 64)
_KV_PRECISIONS = ("fp32", "fp16", "int8")
"""The precisions of the KV cache from the largest to the smallest."""
_STEP = 64 << 20
"""A refusal names the least memory rounded up to this."""


@dataclass(frozen=True)
class MemoryChoice:
    """Settings that keep a budget, and what they cost."""

    settings: MemorySettings
    plan: MemoryPlan
    changes: tuple[str, ...]
    """What is not as it was asked for, in words; empty when all is."""


class MemoryBudget:
    """The memory that a process may take for one bundle.

    Args:
        bundle: Not loaded yet.
        limit_bytes: Most memory of the whole process.
        load: The options of loading, which say what computes the vision half.
    """

    def __init__(self, bundle: Bundle, limit_bytes: int, load: LoadOptions = LoadOptions()) -> None:
        self._bundle = bundle
        self.limit_bytes = limit_bytes
        self.process_bytes = expected_process_bytes(bundle, load.vision_engine)
        """Expected memory of this process without the model."""

    def choose(
        self,
        wanted: MemorySettings,
        pictures: Sequence[Size] = (ANY_PICTURE,),
        *,
        video: bool = False,
        conversation: bool = True,
    ) -> MemoryChoice:
        """Gives up as little as possible until the plan keeps the budget.

        In this order, what costs nothing but time first: engines that stay loaded, what is kept for reuse, the
        prefill's chunk, a context that nobody asked for, the KV cache's precision, Eagle tokens, tiles, the Eagle
        branch.

        Args:
            wanted: What is asked for; its context and `keep_vision` are given up only where they are 0 and True.
            pictures: Sizes; by default a picture that takes all tiles.
            video: Whether the pictures are frames of a video.
            conversation: Whether pictures may come when the context is full.

        Raises:
            BudgetError: Nothing keeps the budget; the sentence says what would.
            InputError: An option is out of range.
        """

        def plan(settings: MemorySettings) -> MemoryPlan:
            return plan_bundle(
                self._bundle,
                pictures,
                settings,
                video=video,
                conversation=conversation,
                process_bytes=self.process_bytes,
            )

        search = _Search(plan, self.limit_bytes)
        largest = plan(wanted).context_length
        precisions = _kv_precisions(wanted) if self._bundle.manifest.decoder.engine == "native" else ()
        settings = search.descend(wanted, _steps(wanted, largest, plan(wanted).picture_tokens, precisions))
        if settings is None:
            raise BudgetError(self._refusal(search))
        return MemoryChoice(settings, plan(settings), _changes(wanted, settings))

    def check(self, pictures: Sequence[Size], settings: MemorySettings, *, video: bool) -> None:
        """Refuses pictures that would break the budget.

        Raises:
            BudgetError: They would; the sentence says by how much.
        """
        try:
            plan = plan_bundle(
                self._bundle, pictures, settings, video=video, conversation=True, process_bytes=self.process_bytes
            )
        except BudgetError:
            return  # they do not fit the context, which the session says better
        if plan.peak_bytes > self.limit_bytes:
            raise BudgetError(
                f"The question needs {format_bytes(plan.peak_bytes)} of memory, more than the "
                f"{format_bytes(self.limit_bytes)} that it may take; show fewer or smaller pictures."
            )

    def _refusal(self, search: _Search) -> str:
        least, settings = search.least
        if least is None:
            return (
                f"Nothing fits {format_bytes(self.limit_bytes)} of memory: the pictures need more positions than "
                f"the context of {settings.context_length} has; ask for a longer context or show fewer pictures."
            )
        fitting = math.ceil(least.peak_bytes / _STEP) * (_STEP >> 20)
        parts = f"{format_bytes(least.decoder_bytes)} of it decoder weights and {format_bytes(least.kv_bytes)} KV cache"
        return (
            f"{self._bundle.directory} does not fit {format_bytes(self.limit_bytes)} of memory: the least that it "
            f"needs is {format_bytes(least.peak_bytes)}, {parts}, for a context of {least.context_length}"
            f"{'' if settings.eagle else ' without the Eagle branch'}; {fitting}MiB would fit."
        )


@dataclass(frozen=True)
class _Step:
    """One thing that can be given up: ways to change the settings, each cheaper than the one before."""

    ways: Sequence[Callable[[MemorySettings], MemorySettings]]


class _Search:
    """The search for the best settings within a limit."""

    def __init__(self, plan: Planner, limit_bytes: int) -> None:
        self._plan = plan
        self._limit = limit_bytes
        self.least: tuple[MemoryPlan | None, MemorySettings] = (None, MemorySettings())
        """The cheapest that was looked at last."""

    def descend(self, wanted: MemorySettings, steps: Sequence[_Step]) -> MemorySettings | None:
        """Takes the steps one by one until the plan fits, then takes back, the last first, what there is room for."""
        if self._fits(wanted):
            return wanted
        taken: list[_Step] = []
        ends: list[Callable[[MemorySettings], MemorySettings]] = []
        for step in steps:
            if not step.ways:
                continue
            taken.append(step)
            ends.append(step.ways[-1])
            if self._fits(_applied(wanted, ends)):
                break
        else:
            return None
        for place in range(len(taken) - 1, -1, -1):
            ends[place] = self._refined(wanted, ends, taken[place], place)
        return _applied(wanted, ends)

    def _refined(
        self,
        wanted: MemorySettings,
        ends: list[Callable[[MemorySettings], MemorySettings]],
        step: _Step,
        place: int,
    ) -> Callable[[MemorySettings], MemorySettings]:
        """The first way of a step that fits, all others as they are."""
        ways = (lambda settings: settings, *step.ways)
        low, high = 0, len(ways) - 1
        while low < high:
            middle = (low + high) // 2
            if self._fits(_applied(wanted, [*ends[:place], ways[middle], *ends[place + 1 :]])):
                high = middle
            else:
                low = middle + 1
        return ways[high]

    def _fits(self, settings: MemorySettings) -> bool:
        try:
            plan = self._plan(settings)
        except BudgetError:
            self.least = (None, settings)
            return False
        self.least = (plan, settings)
        return plan.peak_bytes <= self._limit


def _applied(settings: MemorySettings, ways: Sequence[Callable[[MemorySettings], MemorySettings]]) -> MemorySettings:
    for way in ways:
        settings = way(settings)
    return settings


def _steps(
    wanted: MemorySettings, largest_context: int, picture_tokens: int, kv_precisions: Sequence[str]
) -> list[_Step]:
    policy = wanted.picture_policy
    chunks = [chunk for chunk in _CHUNKS if chunk < (wanted.prefill_chunk or _PAGE)]
    smallest = min(largest_context, -(-(picture_tokens + _TEXT_POSITIONS) // _PAGE) * _PAGE)
    contexts = [] if wanted.context_length else range(largest_context // _PAGE * _PAGE, smallest - 1, -_PAGE)
    cap = max(policy.eagle_tokens(several=False)[1], policy.eagle_tokens(several=True)[1])
    floor = max(_SMALLEST_EAGLE, policy.eagle_min_tokens or 0)
    return [
        _Step([lambda settings: replace(settings, keep_vision=False)] if wanted.keep_vision else []),
        _Step([_way("vision_cache_bytes", size) for size in _cache_sizes(wanted.vision_cache_bytes)]),
        _Step([_way("prefix_cache_bytes", size) for size in _cache_sizes(wanted.prefix_cache_bytes)]),
        _Step([_way("prefill_chunk", chunk) for chunk in chunks]),
        _Step([_way("context_length", context) for context in contexts]),
        _Step([_way("kv_precision", precision) for precision in kv_precisions]),
        _Step([_way("eagle_max_tokens", tokens) for tokens in range(cap - 1, floor - 1, -1)]),
        _Step([_way("tiles", False)] if policy.tiles else []),
        _Step([_way("eagle", False)] if policy.eagle else []),
    ]


def _cache_sizes(wanted_bytes: int) -> list[int]:
    return [wanted_bytes // 2, wanted_bytes // 4, 0] if wanted_bytes else []


def _kv_precisions(wanted: MemorySettings) -> Sequence[str]:
    widest = "fp32" if wanted.kv_precision == "auto" else wanted.kv_precision
    return _KV_PRECISIONS[_KV_PRECISIONS.index(widest) + 1 :]


def _way(name: str, value: object) -> Callable[[MemorySettings], MemorySettings]:
    return lambda settings: replace(settings, **{name: value})  # type: ignore[arg-type]


def _changes(wanted: MemorySettings, chosen: MemorySettings) -> tuple[str, ...]:
    changes = []
    if chosen.keep_vision != wanted.keep_vision:
        changes.append("vision engines are freed after use")
    if chosen.vision_cache_bytes != wanted.vision_cache_bytes:
        changes.append(f"{format_bytes(chosen.vision_cache_bytes)} of earlier pictures kept")
    if chosen.prefix_cache_bytes != wanted.prefix_cache_bytes:
        changes.append(f"{format_bytes(chosen.prefix_cache_bytes)} of earlier KV pages kept")
    if chosen.prefill_chunk != wanted.prefill_chunk:
        changes.append(f"prefill in chunks of {chosen.prefill_chunk}")
    if chosen.context_length != wanted.context_length:
        changes.append(f"a context of {chosen.context_length}")
    if chosen.kv_precision != wanted.kv_precision:
        changes.append(f"KV cache in {chosen.kv_precision}")
    if not chosen.eagle and wanted.eagle:
        changes.append("no Eagle branch")
    elif chosen.eagle_max_tokens != wanted.eagle_max_tokens:
        changes.append(f"at most {chosen.eagle_max_tokens} Eagle tokens a picture")
    if chosen.tiles != wanted.tiles:
        changes.append("no tiles")
    return tuple(changes)
