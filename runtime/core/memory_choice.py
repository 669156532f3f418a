"""What has to be given up so that a question keeps a limit on memory (docs/memory.md, "A limit")."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from valley2_edge.bundle import Bundle
from valley2_edge.option_checks import LARGEST_UINT64
from valley2_edge.runtime.core.binding import KV_PRECISION_NUMBERS, new_struct, path_bytes, text_of, unsigned
from valley2_edge.runtime.core.library import check, library
from valley2_edge.runtime.core.memory import MemoryPlan, MemorySettings, memory_plan

_KV_PRECISIONS = {number: name for name, number in KV_PRECISION_NUMBERS.items()}


@dataclass(frozen=True)
class MemoryChoice:
    """Settings that keep a limit, and what they cost."""

    settings: MemorySettings
    plan: MemoryPlan
    changes: tuple[str, ...]
    """What is not as it was asked for, in words; empty when all is."""


@dataclass(frozen=True)
class GpuChoice:
    """Settings that fit a GPU, and what they cost."""

    settings: MemorySettings
    """The settings, with `keep_vision` and `offload_weights` as chosen."""
    plan: MemoryPlan
    text: str
    """What was chosen, in words; empty when the vision engines are not on the GPU."""


def choose_memory(bundle: Bundle, limit_bytes: int, wanted: MemorySettings, options: Any) -> MemoryChoice:
    """Gives up as little as possible until the plan keeps the limit.

    Args:
        bundle: Not loaded yet.
        limit_bytes: Most memory of the whole process; 0: there is no limit.
        wanted: What is asked for; its context and `keep_vision` are given up only where they are 0 and True.
        options: What `memory_options` gave for it.

    Raises:
        BudgetError: Nothing keeps the limit; the sentence says what would.
    """
    choice, plan = new_struct("v2e_memory_choice"), new_struct("v2e_memory_plan")
    limit = unsigned("memory", limit_bytes, LARGEST_UINT64)
    check(library().v2e_choose_memory(path_bytes(bundle.directory), limit, options, choice, plan))
    geometry = options.geometry
    settings = replace(
        wanted,
        keep_vision=bool(choice.keep_vision),
        vision_cache_bytes=choice.vision_cache_bytes,
        prefix_cache_bytes=choice.prefix_cache_bytes,
        prefill_chunk=choice.prefill_chunk,
        context_length=choice.context_length,
        kv_precision=_KV_PRECISIONS[choice.kv_precision],
        eagle_max_tokens=choice.eagle_max_tokens or wanted.eagle_max_tokens,
        # The pictures may have no tiles and no Eagle branch for another reason than the policy.
        tiles=wanted.tiles and choice.no_tiles == geometry.no_tiles,
        eagle=wanted.eagle and choice.no_eagle == geometry.no_eagle,
    )
    return MemoryChoice(settings, memory_plan(plan), tuple(text_of(choice.changes).splitlines()))


def check_memory(bundle: Bundle, limit_bytes: int, options: Any) -> None:
    """Refuses a question whose plan is above the limit; pictures that do not fit the context pass.

    Args:
        bundle: The bundle.
        limit_bytes: Most memory of the whole process.
        options: What `memory_options` gave for it.

    Raises:
        BudgetError: The plan is above the limit; the sentence says by how much.
    """
    check(library().v2e_check_memory(path_bytes(bundle.directory), limit_bytes, options))


def share_gpu(bundle: Bundle, wanted: MemorySettings, options: Any) -> GpuChoice:
    """Finds what a question can have on the GPU, as v2e_share_gpu says it.

    Args:
        bundle: Not loaded yet.
        wanted: What is asked for.
        options: What `memory_options` gave for it.

    Raises:
        BudgetError: Nothing fits; the sentence says what would.
        InputError: There is no GPU to ask for its memory.
    """
    share, plan = new_struct("v2e_gpu_share"), new_struct("v2e_memory_plan")
    check(library().v2e_share_gpu(path_bytes(bundle.directory), options, share, plan))
    settings = replace(wanted, keep_vision=bool(share.keep_vision), offload_weights=bool(share.offload_weights))
    return GpuChoice(settings, memory_plan(plan), text_of(share.changes))
