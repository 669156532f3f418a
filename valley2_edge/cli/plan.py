"""`valley2-edge plan`: what a question will cost in memory, before anything is loaded."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from valley2_edge.bundle import open_bundle
from valley2_edge.byte_count import format_bytes, parse_bytes
from valley2_edge.chosen_bundle import resolve_bundle
from valley2_edge.cli import chat_options as options
from valley2_edge.cli.terminal import output_console, print_line
from valley2_edge.errors import InputError

if TYPE_CHECKING:
    from valley2_edge.runtime.core.memory import MemoryPlan, MemorySettings
    from valley2_edge.runtime.memory_budget import MemoryChoice

_PARTS = {
    "process": ("process_bytes", "the program, its libraries and the tokenizer"),
    "decoder": ("decoder_bytes", "weights, mapped from the file"),
    "embeddings": ("embedding_bytes", "pages of the table that the text touches"),
    "KV cache": ("kv_bytes", "of the whole context"),
    "decoder scratch": ("scratch_bytes", "the largest prefill chunk, logits"),
    "SigLIP": ("siglip_bytes", "weights"),
    "projector": ("projector_bytes", "weights"),
    "SigLIP at work": ("siglip_work_bytes", "loading and activations, a tile at a time"),
    "Eagle": ("eagle_bytes", "weights"),
    "Eagle at work": ("eagle_work_bytes", "loading and activations, the largest picture"),
    "pictures": ("picture_bytes", "pixels, tiles or patches, tokens"),
    "vision cache": ("vision_cache_bytes", "embeddings of earlier pictures"),
    "prefix cache": ("prefix_cache_bytes", "KV pages for prompts that begin alike"),
}
_GPU_PARTS = {
    "GPU: weights": ("gpu_weight_bytes", "of the decoder's layers on it"),
    "GPU: KV cache": ("gpu_kv_bytes", "of the whole context"),
    "GPU: scratch": ("gpu_scratch_bytes", "the largest prefill chunk, logits"),
    "GPU: SigLIP": ("gpu_siglip_bytes", "weights in fp16"),
    "GPU: projector": ("gpu_projector_bytes", "weights in fp16"),
    "GPU: SigLIP at work": ("gpu_siglip_work_bytes", "a tile at a time"),
    "GPU: Eagle": ("gpu_eagle_bytes", "weights in fp16"),
    "GPU: Eagle at work": ("gpu_eagle_work_bytes", "the largest picture"),
    "GPU: driver": ("gpu_context_bytes", "its own memory, kernels, TensorRT: assumed"),
    "GPU phase: tiles": ("gpu_tiles_phase_bytes", "while tiles are encoded"),
    "GPU phase: eagle": ("gpu_eagle_phase_bytes", "while Eagle encodes"),
    "GPU phase: answer": ("gpu_answer_phase_bytes", "prefill and answer"),
    "GPU: at most": ("gpu_bytes", "beside the CPU's memory"),
}
_UNPLANNED = {"system", "think", "isa", "providers", "memory"}
"""Options on which a plan does not depend."""
_PHASES = {"tiles": "while tiles are encoded", "eagle": "while Eagle encodes", "answer": "prefill and answer"}


def plan(
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="The bundle; without it $VALLEY2_BUNDLE, then the one exported last."),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="WxH", help="A picture's size in pixels, for example 1280x720; once for each picture."),
    ] = None,
    video: Annotated[
        str | None, typer.Option(metavar="WxH", help="The size of a video's frames, instead of pictures.")
    ] = None,
    frames: options.Frames = 8,
    context_length: Annotated[
        int,
        typer.Option(
            "--context-length",
            "--context",
            help="Positions of question, pictures and answer; 0: as many as the model was trained for.",
        ),
    ] = 0,
    kv_precision: options.KvPrecision = "auto",
    prefill_chunk: options.PrefillChunk = 0,
    threads: options.Threads = 0,
    activations: options.Activations = "int8",
    device: options.Device = None,
    vision_engine: options.VisionEngineOption = "auto",
    gpu_memory: options.GpuMemory = None,
    keep_vision: Annotated[
        bool, typer.Option("--keep-vision", help="Plan for vision engines that stay loaded between questions.")
    ] = False,
    conversation: Annotated[
        bool, typer.Option("--conversation", help="Plan for pictures that come when the context is full.")
    ] = False,
    vision_cache: options.VisionCache = "256MiB",
    prefix_cache: options.PrefixCache = "256MiB",
    policy: options.PolicyOption = "hub",
    eagle: options.Eagle = True,
    tiles: options.Tiles = True,
    eagle_preset: options.EaglePresetOption = "balanced",
    eagle_max_tokens: options.EagleMaxTokens = None,
    eagle_min_tokens: options.EagleMinTokens = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Choose caps, context and KV precision that keep this, for example 6GiB."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print bytes as JSON.")] = False,
) -> None:
    """Show what a question will take of memory; reads the manifest and headers only."""
    pictures = _picture_sizes(image or [], video, frames)
    limit = None if memory is None else parse_bytes(memory)
    from valley2_edge.runtime.core.memory import MemorySettings, check_positions
    from valley2_edge.runtime.decoder_choice import place, with_layers
    from valley2_edge.runtime.vision.engine import check_engine

    settings = MemorySettings(
        policy=policy,
        eagle=eagle,
        tiles=tiles,
        eagle_preset=eagle_preset,
        eagle_max_tokens=eagle_max_tokens,
        eagle_min_tokens=eagle_min_tokens,
        vision_engine=vision_engine,
        context_length=context_length,
        kv_precision=kv_precision,
        prefill_chunk=prefill_chunk,
        keep_vision=keep_vision,
        vision_cache_bytes=parse_bytes(vision_cache, least=0),
        prefix_cache_bytes=parse_bytes(prefix_cache, least=0),
        threads=threads,
        activations=activations,
        gpu_memory=0 if gpu_memory is None else parse_bytes(gpu_memory),
    )
    opened = open_bundle(resolve_bundle(bundle), check="sizes")
    about: dict[str, Any] = {"video": video is not None, "conversation": conversation}
    manifest = opened.manifest
    check_engine(vision_engine, [manifest.siglip, manifest.projector, manifest.eagle])
    check_positions(opened, pictures, settings, video=video is not None)
    sizes = list(pictures.elements())
    elsewhere = device == "cuda" and gpu_memory is not None
    placed, gpu = place(opened, settings, device, elsewhere=elsewhere)
    choice = _choose(opened, sizes, with_layers(opened, placed, gpu), limit, about)
    if as_json:
        typer.echo(json.dumps(_content(opened.directory, sizes, limit, choice), indent=2))
    else:
        _print(opened.directory, limit, choice)
        if choice.plan.gpu_bytes:
            _print_gpu(choice.plan, "" if gpu is None else gpu.text)
        elif device == "auto":
            print_line(output_console(), "GPU: none that can be used")


def _choose(
    bundle: Any, sizes: list[tuple[int, int]], settings: MemorySettings, limit: int | None, about: dict[str, Any]
) -> MemoryChoice:
    from valley2_edge.runtime.core.memory import plan_memory
    from valley2_edge.runtime.memory_budget import MemoryBudget, MemoryChoice

    if limit is None:
        return MemoryChoice(settings, plan_memory(bundle, sizes, settings, **about), ())
    return MemoryBudget(bundle, limit, settings.vision_device).choose(settings, sizes, **about)


def _picture_sizes(images: list[str], video: str | None, frames: int) -> Counter[tuple[int, int]]:
    """How many pictures there are of each size."""
    if images and video:
        raise InputError("one question can be about pictures or about a video, not about both")
    if frames < 1:
        raise InputError(f"--frames must be at least 1, not {frames}")
    if video:
        return Counter({_read_size("--video", video): frames})
    return Counter(_read_size("--image", text) for text in images)


def _read_size(option: str, text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d{1,9})\s*[xX]\s*(\d{1,9})\s*", text)
    if match is None or not (int(match[1]) and int(match[2])):
        raise InputError(f"{option} takes width x height in pixels, for example 1280x720, not {text!r}")
    return int(match[1]), int(match[2])


def _content(directory: Path, sizes: list[tuple[int, int]], limit: int | None, choice: MemoryChoice) -> dict[str, Any]:
    settings = {name: value for name, value in asdict(choice.settings).items() if name not in _UNPLANNED}
    return {
        "directory": str(directory),
        "pictures": [{"width": width, "height": height} for width, height in sizes],
        "memory_bytes": limit,
        "settings": {**settings, "context_length": choice.plan.context_length},
        "changes": list(choice.changes),
        "plan": {**asdict(choice.plan), "peak_phase": choice.plan.peak_phase},
    }


def _print(directory: Path, limit: int | None, choice: MemoryChoice) -> None:
    console, planned = output_console(), choice.plan
    peak = f"{format_bytes(planned.peak_bytes)} at most, {_PHASES[planned.peak_phase]}"
    print_line(console, f"{directory}: {peak}")
    if limit is not None:
        changes = ", ".join(choice.changes) or "all as asked for"
        print_line(console, f"fits {format_bytes(limit)}: {changes}")
    console.print(_table(planned))
    print_line(console, f"context: {planned.context_length} positions, {planned.picture_tokens} of them for pictures")


def _print_gpu(planned: MemoryPlan, text: str) -> None:
    limit = f" of {format_bytes(planned.gpu_memory_bytes)}" if planned.gpu_memory_bytes else ""
    size = f"{format_bytes(planned.gpu_bytes)}{limit} at most, {planned.gpu_layers} layers of the decoder"
    print_line(output_console(), f"GPU: {size}{', ' if text else ''}{text}")


def _table(planned: MemoryPlan) -> Table:
    table = Table("part", "size", "what")
    for name, (field, what) in _PARTS.items():
        count = getattr(planned, field)
        if count:
            table.add_row(name, format_bytes(count), what)
    table.add_section()
    for phase, what in _PHASES.items():
        count = getattr(planned, f"{phase}_phase_bytes")
        if count:
            table.add_row(f"phase: {phase}", format_bytes(count), what)
    if planned.gpu_bytes:
        table.add_section()
        for name, (field, what) in _GPU_PARTS.items():
            if getattr(planned, field):
                table.add_row(name, format_bytes(getattr(planned, field)), what)
    return table
