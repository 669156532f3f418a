"""How `valley2-edge plan` shows a plan: a table for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from valley2_edge.byte_count import format_bytes
from valley2_edge.cli.terminal import output_console, print_line
from valley2_edge.runtime.core.memory import MemoryPlan
from valley2_edge.runtime.memory_budget import MemoryChoice

_PARTS = {
    "process": ("process_bytes", "the program, its libraries and the tokenizer"),
    "decoder": ("decoder_bytes", "weights, mapped from the file"),
    "embeddings": ("embedding_bytes", "pages of the table that the text touches"),
    "KV cache": ("kv_bytes", "keys and values of the whole context"),
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
    "GPU: weights": ("gpu_weight_bytes", "the decoder's layers on it"),
    "GPU: KV cache": ("gpu_kv_bytes", "keys and values of the whole context"),
    "GPU: scratch": ("gpu_scratch_bytes", "the largest prefill chunk, logits"),
    "GPU: SigLIP": ("gpu_siglip_bytes", "weights"),
    "GPU: projector": ("gpu_projector_bytes", "weights"),
    "GPU: SigLIP at work": ("gpu_siglip_work_bytes", "a tile at a time"),
    "GPU: Eagle": ("gpu_eagle_bytes", "weights"),
    "GPU: Eagle at work": ("gpu_eagle_work_bytes", "the largest picture"),
    "GPU: driver": ("gpu_context_bytes", "its own memory, kernels, libraries: assumed"),
    "GPU phase: tiles": ("gpu_tiles_phase_bytes", "while tiles are encoded"),
    "GPU phase: eagle": ("gpu_eagle_phase_bytes", "while Eagle encodes"),
    "GPU phase: answer": ("gpu_answer_phase_bytes", "prefill and answer"),
    "GPU: at most": ("gpu_bytes", "beside the CPU's memory"),
}
_PHASES = {"tiles": "while tiles are encoded", "eagle": "while Eagle encodes", "answer": "prefill and answer"}
_UNPLANNED = {"system", "think", "isa", "providers", "memory"}
"""Options on which a plan does not depend."""


def plan_as_json(
    directory: Path, sizes: Sequence[tuple[int, int]], limit: int | None, choice: MemoryChoice
) -> dict[str, Any]:
    """A plan as `--json` prints it; sizes are in pixels and bytes."""
    settings = {name: value for name, value in asdict(choice.settings).items() if name not in _UNPLANNED}
    return {
        "directory": str(directory),
        "pictures": [{"width": width, "height": height} for width, height in sizes],
        "memory_bytes": limit,
        "settings": {**settings, "context_length": choice.plan.context_length},
        "changes": list(choice.changes),
        "plan": {**asdict(choice.plan), "peak_phase": choice.plan.peak_phase},
    }


def print_plan(directory: Path, limit: int | None, choice: MemoryChoice) -> None:
    """Prints what fits, and a row for each part and phase."""
    console, planned = output_console(), choice.plan
    peak = f"{format_bytes(planned.peak_bytes)} at most, {_PHASES[planned.peak_phase]}"
    print_line(console, f"{directory}: {peak}")
    if limit is not None:
        changes = ", ".join(choice.changes) or "all as asked for"
        print_line(console, f"fits {format_bytes(limit)}: {changes}")
    console.print(_table(planned))
    print_line(console, f"context: {planned.context_length} positions, {planned.picture_tokens} of them for pictures")


def print_gpu(planned: MemoryPlan, text: str) -> None:
    """Prints what the GPU takes.

    Args:
        planned: A plan with layers of the decoder on a GPU.
        text: Where the vision half is, in words; empty when nothing was chosen.
    """
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
