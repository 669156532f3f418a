"""What stays on a GPU, what leaves it for a while and what stays with the CPU, so that a question fits its memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from valley2_edge.bundle import Bundle
from valley2_edge.byte_count import format_bytes
from valley2_edge.errors import BudgetError
from valley2_edge.runtime.core.memory import ANY_PICTURE, MemoryPlan, MemorySettings, Size
from valley2_edge.runtime.core.vision_backend import VisionBackend
from valley2_edge.runtime.planning import plan_bundle
from valley2_edge.runtime.vision.engine_choice import vision_backend

PLANNED_CONTEXT = 4096
"""Positions that must fit beside the weights when nobody says how many a session will have."""
_STEP = 64 << 20
"""A refusal names the least memory rounded up to this."""

Planner = Callable[[MemorySettings], MemoryPlan]


@dataclass(frozen=True)
class GpuChoice:
    """Settings that fit a GPU, and what they cost."""

    settings: MemorySettings
    """The settings, with `keep_vision` and `offload_weights` as chosen."""
    plan: MemoryPlan
    text: str
    """What was chosen, in words; empty when the vision engines are not on the GPU."""


def fit_gpu(
    bundle: Bundle,
    wanted: MemorySettings,
    pictures: Sequence[Size] = (ANY_PICTURE,),
    *,
    video: bool = False,
    conversation: bool = True,
    process_bytes: int | None = None,
) -> GpuChoice:
    """Finds what a question can have on the GPU.

    With vision engines on it, the first of these that fits with all of the decoder's layers: everything stays; vision
    engines go after use; the decoder's weights go as well, while pictures are encoded. Then the last with fewer layers,
    the rest with the CPU. Without them the layers that fit.

    Args:
        bundle: Not loaded yet.
        wanted: What is asked for; `keep_vision` and `offload_weights` are decided here where vision is on the GPU.
        pictures: Sizes; by default a picture that takes all tiles.
        video: They are frames.
        conversation: They may come when the context is full.
        process_bytes: Memory of the program itself, as `plan_bundle` takes it.

    Raises:
        BudgetError: Nothing fits; the sentence says what would.
        InputError: An option is out of range, or there is no GPU to ask for its memory.
    """

    def plan(settings: MemorySettings) -> MemoryPlan:
        about = {"video": video, "conversation": conversation}
        return plan_bundle(bundle, pictures, settings, process_bytes=process_bytes, **about)

    if not vision_on_gpu(vision_backend(bundle, wanted)):
        return GpuChoice(wanted, plan(wanted), "")
    layers = bundle.manifest.architecture.decoder.num_hidden_layers
    moves = wanted.device != "cpu"
    ways = [replace(wanted, keep_vision=True), replace(wanted, keep_vision=False)]
    if moves:
        ways.append(replace(wanted, keep_vision=False, offload_weights=True))
    fitting: GpuChoice | None = None
    for settings in ways:
        try:
            planned = plan(settings)
        except BudgetError:
            continue  # not a single layer; if it is something else the refusal below meets it again
        if planned.gpu_memory_bytes == 0:
            return GpuChoice(wanted, planned, "")
        if planned.gpu_bytes > planned.gpu_memory_bytes:
            continue
        choice = GpuChoice(settings, planned, _words(settings, planned, layers))
        if not moves or planned.gpu_layers == (wanted.gpu_layers or layers):
            return choice
        if fitting is None or planned.gpu_layers > fitting.plan.gpu_layers:
            fitting = choice
    if fitting is None:
        raise BudgetError(_refusal(plan, ways[-1]))
    return fitting


def vision_on_gpu(vision: VisionBackend | None) -> bool:
    """Whether a backend says that it takes memory of a GPU; None, the core's own towers, takes none."""
    return vision is not None and vision.cost("siglip", 1, 0).gpu_weight_bytes > 0


def _words(settings: MemorySettings, planned: MemoryPlan, layers: int) -> str:
    parts = [] if planned.gpu_layers or settings.device == "cpu" else ["the decoder on the CPU"]
    if planned.gpu_layers and planned.gpu_layers < layers:
        parts.append(f"{planned.gpu_layers} of {layers} layers")
    if settings.keep_vision:
        parts.append("everything stays")
    else:
        parts.append("vision engines are freed after use")
    if settings.offload_weights:
        parts.append("the decoder leaves while pictures are encoded")
    return ", ".join(parts)


def _refusal(plan: Planner, settings: MemorySettings) -> str:
    """Names the least memory that would do: with one layer, where any is to be on the GPU."""
    least = plan(replace(settings, gpu_layers=1) if settings.device == "cuda" else replace(settings, device="cpu"))
    fitting = math.ceil(least.gpu_bytes / _STEP) * (_STEP >> 20)
    return (
        f"{format_bytes(least.gpu_memory_bytes)} of the GPU's memory do not suffice: the least that the vision engines "
        f"{'and a layer of the decoder ' if settings.device == 'cuda' else ''}need is {format_bytes(least.gpu_bytes)}; "
        f"{fitting}MiB would fit."
    )
