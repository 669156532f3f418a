"""Which of ONNX Runtime's execution providers an engine asks for, and what its failures mean."""

from __future__ import annotations

from collections.abc import Sequence

from valley2_edge.errors import BudgetError, InputError, Valley2Error
from valley2_edge.runtime.onnx.onnx_runtime import import_onnxruntime

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
_TENSORRT_PROVIDERS = {"TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"}
"""Refused: each process would build its engines anew, for minutes, and this project builds its own and keeps them."""
# Azure sends pictures away: only when the caller names it.
_NOT_BY_DEFAULT = _TENSORRT_PROVIDERS | {"AzureExecutionProvider"}
# Its default rounds float32 factors to 10 bits of mantissa.
_PROVIDER_OPTIONS = {CUDA_PROVIDER: {"use_tf32": "0"}}

_WRONG_FOR_DECODERS = {
    # Seen with onnxruntime-webgpu 1.27: from 4e-2 to 3.6e-1 of the logits, and no word about it.
    "WebGpuExecutionProvider": "its attention is wrong once a prompt has more rows than a subgroup of the GPU has lanes"
}
"""Providers that are known to compute other answers, and why."""


def choose_providers(wanted: Sequence[str] | None) -> list[str]:
    """The providers to ask for, in order of preference.

    Args:
        wanted: None: those of this machine that run locally without building an engine first.

    Raises:
        InputError: A provider is unknown to this ONNX Runtime, or is one of TensorRT's.
    """
    available: list[str] = import_onnxruntime().get_available_providers()
    if wanted is None:
        return [provider for provider in available if provider not in _NOT_BY_DEFAULT]
    for provider in wanted:
        if provider in _TENSORRT_PROVIDERS:
            raise InputError(
                f"provider {provider} is not supported: take --vision-engine tensorrt for the vision half "
                f"and {CUDA_PROVIDER} for a decoder."
            )
    unknown = [provider for provider in wanted if provider not in available]
    if unknown or not wanted:
        raise InputError(f"providers must be among {', '.join(available)}, not {', '.join(unknown) or 'empty'}.")
    return list(wanted)


def decoder_providers(device: str | None, wanted: Sequence[str] | None) -> list[str]:
    """The providers that a decoder asks for.

    Args:
        device: "cpu", "cuda", "auto", or None: the providers decide.
        wanted: Providers in order of preference; None takes those of the device. Providers that take over a part of a
            transformer and leave the rest to the processor are asked for when they are named.

    Raises:
        InputError: The device means nothing, a provider is unknown to this ONNX Runtime or known to compute wrong
            answers, or they contradict each other.
    """
    if device not in (None, "auto", "cpu", "cuda"):
        raise InputError(f"device is {device!r}; it must be one of auto, cpu, cuda.")
    if wanted is not None:
        chosen = choose_providers(wanted)
        for provider in chosen if device != "cpu" else ():
            if provider in _WRONG_FOR_DECODERS:
                raise InputError(
                    f"provider {provider} computes wrong answers with a decoder: {_WRONG_FOR_DECODERS[provider]}. "
                    "Name another one, or take a bundle with a native decoder: there it may compute the vision half."
                )
        fits = {"cpu": chosen[0] == CPU_PROVIDER, "cuda": chosen[0] == CUDA_PROVIDER}
        if not fits.get(device or "", True):
            raise InputError(f"device {device} and provider {chosen[0]} contradict each other: leave one of them out.")
        return chosen[:1] if device == "cpu" else chosen
    if device == "cpu":
        return [CPU_PROVIDER]
    available = [provider for provider in (CUDA_PROVIDER, CPU_PROVIDER) if provider in choose_providers(None)]
    if device == "cuda" and CUDA_PROVIDER not in available:
        raise InputError(
            "device is 'cuda', but this ONNX Runtime has no CUDAExecutionProvider: "
            "run `pip install onnxruntime-gpu` instead of onnxruntime."
        )
    return available


def with_options(providers: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """The providers, in order of preference, as a session takes them: each with its options."""
    return [(provider, _PROVIDER_OPTIONS.get(provider, {})) for provider in providers]


def translated(name: str, error: Exception) -> Valley2Error:
    """A failed run in our own words.

    Args:
        name: The engine.
        error: What ONNX Runtime raised.
    """
    text = first_line(error)
    if "allocate" in text.lower() or isinstance(error, MemoryError):
        return BudgetError(f"The memory does not suffice for the {name} engine: {text}")
    return Valley2Error(f"The {name} engine failed: {text}")


def first_line(error: Exception) -> str:
    """The first line of an exception's text, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
