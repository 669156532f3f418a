"""What a question will cost in memory, with the backends that compute the bundle's components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from valley2_edge.bundle import Bundle
from valley2_edge.runtime.core.backend import Backend
from valley2_edge.runtime.core.memory import MemoryPlan, MemorySettings, Size, memory_options, plan_memory
from valley2_edge.runtime.onnx.decoder_cost import OnnxDecoderCost, cpu_arithmetic
from valley2_edge.runtime.vision.engine_choice import vision_backend


def plan_bundle(bundle: Bundle, pictures: Sequence[Size], settings: MemorySettings, **about: Any) -> MemoryPlan:
    """Plans a question as `plan_memory` does, whatever computes the bundle's decoder and its vision half.

    Args:
        bundle: The bundle; only its manifest and the headers of its files are read.
        pictures: Sizes of the pictures, or of a video's frames.
        settings: The options of the model and the session.
        **about: The keywords of `plan_memory`.

    Raises:
        InputError: An option is out of range, or a picture is too thin.
        BundleError: A header is damaged.
        BudgetError: The pictures do not fit the context.
    """
    return plan_memory(bundle, pictures, settings, **_backends(bundle, settings), **about)


def bundle_options(
    bundle: Bundle,
    pictures: Sequence[Size],
    settings: MemorySettings,
    *,
    video: bool,
    conversation: bool,
    process_bytes: int | None,
) -> Any:
    """The v2e_memory_options of a question, with the same backends; the arguments are those of `plan_memory`.

    Raises:
        InputError: An option is out of range, or a picture is too thin.
        BudgetError: No context is long enough for the pictures.
    """
    about: dict[str, Any] = {"video": video, "conversation": conversation, "process_bytes": process_bytes}
    return memory_options(bundle, pictures, settings, **_backends(bundle, settings), **about)


def _backends(bundle: Bundle, settings: MemorySettings) -> dict[str, Any]:
    return {
        "decoder_backend": _decoder_backend(bundle, settings),
        "vision_backend": vision_backend(bundle, settings),
    }


def _decoder_backend(bundle: Bundle, settings: MemorySettings) -> Backend | None:
    """What will compute the decoder; None: the core's kernels."""
    if bundle.manifest.decoder.engine == "native":
        return None
    on_gpu = settings.device == "cuda"
    return OnnxDecoderCost(bundle, "fp16" if on_gpu else cpu_arithmetic(bundle, settings.activations), on_gpu)
