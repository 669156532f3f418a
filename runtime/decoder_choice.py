"""Which engine a bundle's decoder gets, and where it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from valley2_edge.bundle import NATIVE_DECODER_FILES, Bundle
from valley2_edge.errors import BundleError, InputError
from valley2_edge.runtime.decoder import Decoder
from valley2_edge.runtime.decoder_engine import DecoderDescription, DecoderEngine
from valley2_edge.runtime.gpu_budget import PLANNED_CONTEXT, GpuChoice, fit_gpu
from valley2_edge.runtime.memory import MemorySettings
from valley2_edge.runtime.vision_engine import VisionEngineName


def planned_device(bundle: Bundle, device: str | None) -> str:
    """The device that a plan of the memory counts for; ONNX Runtime's own memory on a GPU is in no plan.

    Args:
        bundle: Whose decoder it is.
        device: What the caller wants: cpu, cuda, auto, or None for the default.
    """
    if bundle.manifest.decoder.engine == "native":
        return device or "cpu"
    return "cuda" if device == "cuda" else "cpu"


def planned_vision_device(vision_engine: VisionEngineName) -> str:
    """Where the vision engines are planned: on the GPU where TensorRT is wanted and installed."""
    if vision_engine != "tensorrt":
        return "cpu"
    from valley2_edge.runtime.trt.api import is_installed

    return "cuda" if is_installed() else "cpu"


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
    if wanted.vision_device != "cuda" or wanted.device == "cpu":
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
        gpu_yields=choice.settings.gpu_yields,
        gpu_layers=plan.gpu_layers,
        gpu_memory=left,
    )
    return chosen, choice


def open_decoder(
    bundle: Bundle, settings: MemorySettings, isa: str, device: str | None, providers: Sequence[str] | None
) -> DecoderEngine:
    """The decoder in the engine that the bundle was made for.

    Args:
        bundle: Checked.
        settings: Threads, activations, and what of the GPU it may take.
        isa: Of the native decoder.
        device: As `Valley2.load` takes it.
        providers: ONNX Runtime's, in order of preference.

    Raises:
        BundleError: A file is damaged or cannot be loaded.
        InputError: An option means nothing to the engine, contradicts another one, or the machine lacks what it names.
        BudgetError: The GPU has too little memory.
    """
    threads, activations = settings.threads, settings.activations
    if bundle.manifest.decoder.engine == "native":
        with bundle.unchanged(*NATIVE_DECODER_FILES):
            decoder = Decoder(
                bundle.directory / "decoder",
                threads=threads,
                isa=isa,
                activations=activations,
                device=settings.device,
                gpu_layers=settings.gpu_layers,
                gpu_memory=settings.gpu_memory,
                gpu_yields=settings.gpu_yields,
            )
        _check_sizes(bundle, decoder.description)
        return decoder
    if isa != "auto":
        raise InputError(f"isa is {isa!r}; the bundle's decoder runs in ONNX Runtime, which chooses its own.")
    for name in ("gpu_layers", "gpu_memory"):
        if getattr(settings, name):
            raise InputError(
                f"{name} is of the native decoder; the bundle's runs in ONNX Runtime, which takes all or none."
            )
    from valley2_edge.runtime.onnx_decoder import OnnxDecoder

    return OnnxDecoder(bundle, threads=threads, activations=activations, device=device, providers=providers)


def _check_sizes(bundle: Bundle, found: DecoderDescription) -> None:
    """The decoder's own header says what the manifest says, by which pictures and prompts are made."""
    config = bundle.manifest.architecture.decoder
    sizes = {
        "hidden_size": (found.hidden_size, config.hidden_size),
        "intermediate_size": (found.intermediate_size, config.intermediate_size),
        "num_hidden_layers": (found.layers, config.num_hidden_layers),
        "num_attention_heads": (found.heads, config.num_attention_heads),
        "num_key_value_heads": (found.kv_heads, config.num_key_value_heads),
        "vocab_size": (found.vocabulary_size, config.vocab_size),
        "max_position_embeddings": (found.max_context, config.max_position_embeddings),
    }
    for name, (stored, expected) in sizes.items():
        if stored != expected:
            raise BundleError(
                f"{bundle.directory / NATIVE_DECODER_FILES[0]} has {name} {stored}, but the manifest says {expected}; "
                "export the bundle again"
            )
