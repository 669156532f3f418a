"""Which engine a bundle's decoder gets, and where it runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

from valley2_edge.bundle import NATIVE_DECODER_FILES, ONNX_WEIGHTS_FILE, Bundle
from valley2_edge.errors import EngineError, InputError, Valley2Warning
from valley2_edge.options import LoadOptions, picked
from valley2_edge.runtime.core.backend import Backend
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.memory import MemorySettings
from valley2_edge.runtime.devices.check import check_decoder, nvidia_gpu
from valley2_edge.runtime.devices.driver_cache import keep_driver_caches
from valley2_edge.runtime.gpu_budget import PLANNED_CONTEXT, GpuChoice, fit_gpu, vision_on_gpu
from valley2_edge.runtime.onnx.decoder import OnnxDecoderBackend
from valley2_edge.runtime.onnx.providers import CPU_PROVIDER, CUDA_PROVIDER
from valley2_edge.runtime.planning import plan_bundle
from valley2_edge.runtime.vision.engine_choice import vision_backend


def place(
    bundle: Bundle,
    wanted: MemorySettings,
    device: str | None,
    *,
    elsewhere: bool = False,
) -> tuple[MemorySettings, GpuChoice | None]:
    """Where decoder and vision engines will be: `Valley2.load` puts them there, `valley2-edge plan` counts them there.

    Args:
        bundle: Not loaded yet.
        wanted: What is asked for, apart from the devices.
        device: What was asked for the decoder: cpu, cuda, auto, or None for the default.
        elsewhere: Whether the GPU, and TensorRT for it, may be in another machine than this one.

    Returns:
        The settings with the devices, and how they share a GPU; None: they do not.

    Raises:
        BudgetError: They do not fit the GPU; the sentence says what would.
        InputError: There is no GPU, or an option means nothing to the decoder's engine.
    """
    return settings_for_gpu(bundle, on_devices(bundle, wanted, device, elsewhere=elsewhere))


def on_devices(
    bundle: Bundle, wanted: MemorySettings, device: str | None, *, elsewhere: bool = False
) -> MemorySettings:
    """Where decoder and vision engines will be, before they share a GPU; arguments and errors are those of `place`."""
    if bundle.manifest.decoder.engine != "native":
        _refuse_native_options(wanted, elsewhere)
    placed = replace(wanted, device=_decoder_device(bundle, device))
    if wanted.vision_engine == "tensorrt":
        free = placed.gpu_memory if elsewhere else _free_gpu_bytes(bundle) if _has_tensorrt() else 0
        if free:
            placed = replace(placed, gpu_memory=min(free, placed.gpu_memory or free))
        else:
            placed = replace(placed, vision_engine="native")  # as the encoder will find
    return placed


def with_layers(bundle: Bundle, placed: MemorySettings, choice: GpuChoice | None) -> MemorySettings:
    """What `place` gave with the layers that the decoder will have on the GPU, for a plan.

    Loading finds them from the memory that is free then, for the context that is always planned for. A GPU that "cuda"
    asks for need not be in this machine when its memory is given; "auto" takes the one that is.

    Raises:
        BudgetError: The GPU has too little memory for a layer.
        InputError: There is no GPU.
    """
    if choice is not None:
        planned = choice.plan
    elif placed.device == "cpu":
        return placed
    else:
        memory = placed.gpu_memory
        if placed.device == "auto":
            free = _free_gpu_bytes(bundle)
            memory = min(free, memory or free)
            if memory == 0:
                return replace(placed, device="cpu", gpu_memory=0)
        planned = plan_bundle(bundle, (), _loading(bundle, replace(placed, gpu_memory=memory)))
    return replace(
        placed,
        device="cuda" if planned.gpu_layers else "cpu",
        gpu_layers=planned.gpu_layers,
        gpu_memory=planned.gpu_memory_bytes,
    )


def _loading(bundle: Bundle, settings: MemorySettings) -> MemorySettings:
    """The settings that the loader plans with, which knows no session yet."""
    longest = bundle.manifest.architecture.decoder.max_position_embeddings
    context = min(PLANNED_CONTEXT, longest)
    return replace(settings, context_length=context, kv_precision="auto", prefill_chunk=0)


def _free_gpu_bytes(bundle: Bundle) -> int:
    """Free bytes of the GPU's memory; 0: there is none that can be used."""
    return plan_bundle(bundle, (), _loading(bundle, MemorySettings(device="auto"))).gpu_memory_bytes


def _refuse_native_options(wanted: MemorySettings, elsewhere: bool) -> None:
    """The options of the core's own kernels mean nothing to ONNX Runtime."""
    if wanted.isa != "auto":
        raise InputError(f"isa is {wanted.isa!r}; the bundle's decoder runs in ONNX Runtime, which chooses its own.")
    describes_gpu = elsewhere or wanted.vision_engine == "tensorrt"
    named = ["gpu_layers"] if describes_gpu else ["gpu_layers", "gpu_memory"]
    for name in named:
        if getattr(wanted, name):
            raise InputError(
                f"{name} is of the native decoder; the bundle's runs in ONNX Runtime, which takes all or none."
            )


def _decoder_device(bundle: Bundle, device: str | None) -> str:
    """ONNX Runtime decides by itself whether it uses a GPU that nobody has named: a plan leaves that out."""
    if bundle.manifest.decoder.engine == "native":
        return device or "cpu"
    return "cuda" if device == "cuda" else "cpu"


def _has_tensorrt() -> bool:
    from valley2_edge.runtime.trt.api import is_installed

    return is_installed()


def settings_for_gpu(bundle: Bundle, wanted: MemorySettings) -> tuple[MemorySettings, GpuChoice | None]:
    """How decoder and vision engines share the GPU, where both are to be on it.

    Args:
        bundle: Not loaded yet.
        wanted: What is asked for.

    Returns:
        The settings with what was chosen, and the choice; None: there is nothing to choose.

    Raises:
        BudgetError: They do not fit; the sentence says what would.
        InputError: There is no GPU.
    """
    if wanted.device == "cpu" or not vision_on_gpu(vision_backend(bundle, wanted)):
        return wanted, None
    longest = bundle.manifest.architecture.decoder.max_position_embeddings
    choice = fit_gpu(bundle, replace(wanted, context_length=min(PLANNED_CONTEXT, longest)))
    if not choice.text:
        return wanted, None
    plan = choice.plan
    # Without a layer on the GPU the decoder may look for room in what is left, and say that there is none.
    left = wanted.gpu_memory if plan.gpu_layers else max(plan.gpu_memory_bytes - plan.gpu_bytes, 1)
    chosen = replace(
        wanted,
        keep_vision=choice.settings.keep_vision,
        offload_weights=choice.settings.offload_weights,
        gpu_layers=plan.gpu_layers,
        gpu_memory=left,
    )
    return chosen, choice


OpenOne = Callable[[MemorySettings, "Backend | None"], Decoder]
"""Opens a decoder with these settings, in the backend or in the core."""


def open_decoder(
    bundle: Bundle, settings: MemorySettings, device: str | None, open_one: OpenOne | None = None
) -> Decoder:
    """The decoder in the engine that the bundle was made for, compared with the CPU where it is on a device.

    Args:
        bundle: Checked.
        settings: The options of loading, with the devices as `place` chose them.
        device: What was asked for: cpu, cuda, auto, or None for the default.
        open_one: Opens the decoder that is returned; None: it is opened alone.

    Raises:
        BundleError: A file is damaged or cannot be loaded.
        InputError: An option means nothing to the engine, contradicts another one, or the machine lacks what it names;
            or the device that was asked for computes wrong.
        BudgetError: The GPU has too little memory.
    """
    alone: OpenOne = lambda chosen, backend: _open_alone(bundle, chosen, backend)  # noqa: E731
    open_one = open_one or alone
    decoder = _open(bundle, settings, device, open_one)
    if not _is_on_device(decoder):
        return decoder
    exact = replace(settings, activations="int16")
    about, provider = decoder.description, _provider(decoder)
    shared = not provider and about.gpu_layers < about.layers and settings != exact
    try:
        check_decoder(
            bundle,
            decoder,
            lambda: _open_on_cpu(bundle, exact, alone),
            (lambda: _open_on_cpu(bundle, settings, alone)) if shared else None,
            driver="" if provider else nvidia_gpu()[1],
            provider=provider,
        )
    except EngineError as error:
        decoder.close()
        if device == "cuda" or settings.providers is not None:
            raise InputError(f"The decoder is not left to a device that computes wrong: {error}.") from error
        reason = str(error)
    except BaseException:
        decoder.close()
        raise
    else:
        return decoder
    warnings.warn(f"The decoder runs on the CPU: {reason}.", Valley2Warning, stacklevel=2)
    decoder = _open_on_cpu(bundle, settings, open_one)
    decoder.description = replace(decoder.description, device_reason=reason)
    return decoder


def _provider(decoder: Decoder) -> str:
    """ONNX Runtime's execution provider; empty: the core computes the decoder."""
    return decoder.backend.provider if isinstance(decoder.backend, OnnxDecoderBackend) else ""


def _is_on_device(decoder: Decoder) -> bool:
    return decoder.description.device != "cpu" or _provider(decoder) not in ("", CPU_PROVIDER)


def _open_on_cpu(bundle: Bundle, settings: MemorySettings, open_one: OpenOne) -> Decoder:
    left = replace(settings, device="cpu", gpu_layers=0, gpu_memory=0, offload_weights=False, providers=None)
    return _open(bundle, left, "cpu", open_one)


def _open(bundle: Bundle, settings: MemorySettings, device: str | None, open_one: OpenOne) -> Decoder:
    if bundle.manifest.decoder.engine != "native":
        return _open_in_onnx_runtime(bundle, settings, device, open_one)
    if settings.device != "cpu":
        keep_driver_caches()
    return open_one(settings, None)


def _open_alone(bundle: Bundle, settings: MemorySettings, backend: Backend | None) -> Decoder:
    directory, embeddings = bundle.directory / "decoder", bundle.stamp(NATIVE_DECODER_FILES[1])
    if backend is not None:
        return Decoder(directory, threads=settings.threads, backend=backend, embeddings_stamp=embeddings)
    return Decoder(
        directory,
        picked(LoadOptions, settings),
        offload_weights=settings.offload_weights,
        decoder_stamp=bundle.stamp(NATIVE_DECODER_FILES[0]),
        embeddings_stamp=embeddings,
    )


def _open_in_onnx_runtime(bundle: Bundle, settings: MemorySettings, device: str | None, open_one: OpenOne) -> Decoder:
    if device != "cpu":
        keep_driver_caches()
    backend = OnnxDecoderBackend(bundle, picked(LoadOptions, settings, device=device))
    decoder = open_one(settings, backend)
    no_gpu = device == "auto" and backend.provider != CUDA_PROVIDER
    decoder.description = replace(
        decoder.description,
        weight_bytes=bundle.manifest.files[ONNX_WEIGHTS_FILE].size,  # packed in memory, they are larger
        device_reason="ONNX Runtime offers no GPU here" if no_gpu else "",
    )
    return decoder
