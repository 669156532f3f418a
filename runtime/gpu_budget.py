"""What stays on a GPU, what leaves it for a while and what stays with the CPU, so that a question fits its memory."""

from __future__ import annotations

from collections.abc import Sequence

from valley2_edge.bundle import Bundle
from valley2_edge.runtime.core.memory import ANY_PICTURE, MemorySettings, Size
from valley2_edge.runtime.core.memory_choice import GpuChoice, share_gpu
from valley2_edge.runtime.core.vision_backend import VisionBackend
from valley2_edge.runtime.planning import bundle_options

__all__ = ["PLANNED_CONTEXT", "GpuChoice", "fit_gpu", "vision_on_gpu"]

PLANNED_CONTEXT = 4096
"""Positions that must fit beside the weights when nobody says how many a session will have."""


def fit_gpu(
    bundle: Bundle,
    wanted: MemorySettings,
    pictures: Sequence[Size] = (ANY_PICTURE,),
    *,
    video: bool = False,
    conversation: bool = True,
    process_bytes: int | None = None,
) -> GpuChoice:
    """Finds what a question can have on the GPU, in the order of v2e_share_gpu.

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
    options = bundle_options(
        bundle, pictures, wanted, video=video, conversation=conversation, process_bytes=process_bytes
    )
    return share_gpu(bundle, wanted, options)


def vision_on_gpu(vision: VisionBackend | None) -> bool:
    """Whether a backend says that it takes memory of a GPU; None, the core's own towers, takes none."""
    return vision is not None and vision.cost("siglip", 1, 0).gpu_weight_bytes > 0
