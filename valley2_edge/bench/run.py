"""One run of `valley2-edge bench`: every part in turn, each beside its limit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from valley2_edge.bench.alternation import Limits, Measurement
from valley2_edge.bench.bundle import (
    measure_eagle,
    measure_first_token,
    measure_projector,
    measure_siglip,
)
from valley2_edge.bench.decoder import Plan, Repeated, measure_decode, measure_prefill
from valley2_edge.bench.options import DECODER_PARTS, PARTS, Options, Part
from valley2_edge.bench.report import Report
from valley2_edge.bench.shapes import shape_config
from valley2_edge.bench.synthetic_decoder import SyntheticDecoder
from valley2_edge.config import DecoderConfig
from valley2_edge.errors import InputError
from valley2_edge.precisions import DecoderPrecision
from valley2_edge.runtime.core.binding import ISA_NUMBERS
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.probe import LIMITS, Probe
from valley2_edge.runtime.model import Valley2

StageProgress = Callable[[str, int, int], None]
"""Called with the name of a stage, what is done of it, and its total."""
OnReport = Callable[[Report], None]
"""Called after every part with what was measured so far."""


def bench_shape(
    name: str,
    layers: int | None,
    precision: DecoderPrecision,
    group_size: int | None,
    options: Options,
    progress: StageProgress,
    directory: Path,
    on_report: OnReport = lambda report: None,
) -> Report:
    """Measures a decoder with synthetic weights.

    Args:
        name: A key of `SHAPES`.
        layers: Number of layers; None: all that the shape has.
        precision: Precision of the layers' matrices.
        group_size: Columns that share a scale. None: as in an export by default.
        options: What is measured.
        progress: Told how far every part is.
        directory: An empty one for the weights.
        on_report: Told after every part what was measured so far.

    Raises:
        InputError: An option means nothing.
        BudgetError: The disk, the context or the memory does not suffice.
    """
    config = shape_config(name, layers)
    options = _with_parts(options, DECODER_PARTS, f"the shape {name}")
    _check_context(config, options)
    weights = SyntheticDecoder(config, precision, group_size)
    progress("weights", 0, 1)
    weights.write(directory)
    progress("weights", 1, 1)
    with Decoder(
        directory,
        threads=options.load.threads,
        isa=options.load.isa,
        activations=options.load.activations,
        device=options.load.device or "cpu",
    ) as decoder:
        facts = {"shape": name, "decoder_precision": precision, **_decoder_facts(decoder)}
        return _measure(_Subject(facts, decoder, config, None), options, progress, on_report)


def bench_bundle(
    directory: Path, options: Options, progress: StageProgress, on_report: OnReport = lambda report: None
) -> Report:
    """Measures the parts of a bundle.

    Args:
        directory: The bundle.
        options: What is measured.
        progress: Told how far every part is.
        on_report: Told after every part what was measured so far.

    Raises:
        BundleError: The bundle is missing, damaged or of another version.
        InputError: An option means nothing, or the bundle has no such part.
        BudgetError: The context or the memory does not suffice.
    """
    with Valley2.load(
        directory, options.load, vision_cache_bytes=0, prefix_cache_bytes=0, on_progress=progress
    ) as model:
        manifest = model.bundle.manifest
        possible = tuple(part for part in PARTS if part != "eagle" or manifest.eagle is not None)
        options = _with_parts(options, possible, f"the bundle {model.bundle.directory.name}")
        _check_context(manifest.architecture.decoder, options)
        facts = {
            "bundle": model.bundle.directory.name,
            "decoder_precision": manifest.decoder.precision,
            "vision_precision": manifest.siglip.precision,
            **_decoder_facts(model.engines.decoder),
        }
        subject = _Subject(facts, model.engines.decoder, manifest.architecture.decoder, model)
        return _measure(subject, options, progress, on_report)


@dataclass(frozen=True)
class _Subject:
    """What is measured."""

    facts: dict[str, object]
    decoder: Decoder
    config: DecoderConfig
    model: Valley2 | None
    """The model; None when there is only a decoder."""


def _with_parts(options: Options, possible: tuple[Part, ...], name: str) -> Options:
    if options.parts is None:
        return dataclasses.replace(options, parts=possible)
    missing = [part for part in options.parts if part not in possible]
    if missing:
        raise InputError(f"{name} has no {missing[0]} to measure; it has {', '.join(possible)}")
    return options


def _decoder_facts(decoder: Decoder) -> dict[str, object]:
    names = ("layers", "hidden_size", "intermediate_size", "heads", "kv_heads", "vocabulary_size", "weight_bytes")
    return {name: getattr(decoder.description, name) for name in names}


def _check_context(config: DecoderConfig, options: Options) -> None:
    longest = config.max_position_embeddings
    for what, positions in (
        ("the longest prefill", max(options.lengths)),
        ("the context with the new tokens", options.context + options.new_tokens),
    ):
        if positions > longest:
            raise InputError(f"{what} takes {positions} positions, but the model was trained for {longest}")


def _measure(subject: _Subject, options: Options, progress: StageProgress, on_report: OnReport) -> Report:
    about = subject.decoder.description
    if options.load.vision_engine == "tensorrt" and about.device != "cuda":
        raise InputError("vision in TensorRT is measured against the GPU that the decoder is on: add --device cuda")
    plan = Plan(options.warm_up, options.repetitions)
    # The vision engines are measured against the CPU, wherever the decoder is, unless TensorRT computes them.
    isa = about.isa if about.isa in ISA_NUMBERS else "auto"  # a backend has its name there
    with (
        Probe(about.threads, isa) as processor,
        Probe(about.threads, isa, about.device) as probe,
    ):
        cpu_limits = Limits(processor)
        limits = Limits(probe) if about.device == "cuda" else cpu_limits
        vision_limits = limits if options.load.vision_engine == "tensorrt" else cpu_limits
        report = Report(subject.facts, options, about.isa, about.threads, {}, device_name=about.device_name)
        for part in options.parts or ():
            for measured in _measure_part(part, subject, options, plan, limits, vision_limits, progress, report):
                report = dataclasses.replace(measured, limits=limits.medians())
                on_report(report)
        typical = {name: limits.typical(name) for name in LIMITS[about.device]}
    return dataclasses.replace(report, limits=typical, complete=True)


def _measure_part(
    part: Part,
    subject: _Subject,
    options: Options,
    plan: Plan,
    limits: Limits,
    vision_limits: Limits,
    progress: StageProgress,
    report: Report,
) -> Iterator[Report]:
    """Measures one part, a prefill of each length apart, and yields the report with it."""
    if part == "prefill":
        for length in options.lengths:
            done = _counter(f"prefill {length}", plan, progress)
            measured = measure_prefill(subject.decoder, subject.config, length, plan, limits, done)
            report = dataclasses.replace(report, prefill=(*report.prefill, measured))
            yield report
        return
    done = _counter(part, plan, progress)
    if part == "decode":
        found = measure_decode(subject.decoder, options.context, options.new_tokens, plan, limits, done)
    elif subject.model is None:
        raise InputError(f"{part} needs a bundle")
    elif part == "first-token":
        first_token = measure_first_token(subject.model, options.eagle_preset, plan, done)
        yield dataclasses.replace(report, first_token=first_token)
        return
    else:
        found = _measure_vision(part, subject.model, options, plan, vision_limits, done)
    yield dataclasses.replace(report, others={**report.others, part: found})


def _measure_vision(
    part: Part, model: Valley2, options: Options, plan: Plan, limits: Limits, done: Repeated
) -> Measurement:
    if part == "siglip":
        return measure_siglip(model, plan, limits, done)
    if part == "projector":
        return measure_projector(model, plan, limits, done)
    return measure_eagle(model, options.eagle_preset, plan, limits, done)


def _counter(stage: str, plan: Plan, progress: StageProgress) -> Repeated:
    """Tells the progress of one part, a repetition at a call."""
    total, count = plan.warm_up + plan.repetitions, 0
    progress(stage, 0, total)

    def count_one() -> None:
        nonlocal count
        count += 1
        progress(stage, count, total)

    return count_one
