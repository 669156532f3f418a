"""What a question will cost in memory, with the backends that compute the bundle's components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from valley2_edge.bundle import Bundle
from valley2_edge.runtime.core.backend import Backend
from valley2_edge.runtime.core.memory import MemoryPlan, MemorySettings, Size, plan_memory
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
    return plan_memory(
        bundle,
        pictures,
        settings,
        decoder_backend=_decoder_backend(bundle, settings),
        vision_backend=vision_backend(bundle, settings),
        **about,
    )


def _decoder_backend(bundle: Bundle, settings: MemorySettings) -> Backend | None:
    """What will compute the decoder; None: the core's kernels."""
    if bundle.manifest.decoder.engine == "native":
        return None
    on_gpu = settings.device == "cuda"
    return OnnxDecoderCost(bundle, "fp16" if on_gpu else cpu_arithmetic(bundle, settings.activations), on_gpu)
