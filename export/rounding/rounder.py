"""Rounds the decoder as the options of an export say: method, calibration set, and the formats of the matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from valley2_edge.bundle import Bundle
from valley2_edge.calibration.builtin import BUILTIN, BUILTIN_SAMPLES, builtin_set
from valley2_edge.calibration.jsonl import FRAMES, read_and_hold_out
from valley2_edge.calibration.packs import PACK_TOKENS, Pack
from valley2_edge.calibration.samples import CalibrationSet, Sample, without_pictures
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.control import Announce, ExportControl, Progress
from valley2_edge.export.decoder.formats import DecoderFormats, NamedFormats
from valley2_edge.export.decoder.parts import LM_HEAD
from valley2_edge.export.rounding.calibrated_decoder import RoundingPlan, round_decoder
from valley2_edge.export.rounding.inputs import prepare_packs
from valley2_edge.export.rounding.layer_store import LayerState, LayerStore, RoundedLayers, record_facts
from valley2_edge.export.rounding.memory_check import check_memory, working_bytes
from valley2_edge.export.rounding.options import FILE_SAMPLES, RoundingOptions, check_options
from valley2_edge.export.rounding.sensitivity import SensitivityMethod
from valley2_edge.export.vision.sample_encoder import sample_encoder
from valley2_edge.precisions import DecoderPrecision
from valley2_edge.quantize.matrix_format import MatrixFormat
from valley2_edge.quantize.method import MethodName, rounding_method
from valley2_edge.quantize.mixed_precision import allocate_formats, candidate_formats
from valley2_edge.runtime.core.process_memory import resident_bytes

QUALITY_SAMPLES = 32
"""Number of held-out samples when the options do not say."""


@dataclass(frozen=True)
class Rounding:
    """The options after their check, with all defaults filled in."""

    method: MethodName
    calibration: CalibrationSet | None
    options: RoundingOptions
    quality_samples: int
    own_text: CalibrationSet | None = None
    """Lines of the user's own calibration file that are held out: the quality is measured on them as well."""

    def identity(self) -> dict[str, Any]:
        """Everything that decides the bytes of the decoder, as plain JSON."""
        options = self.options
        return {
            "method": self.method,
            "calibration": None if self.calibration is None else self.calibration.sha256,
            "pack_tokens": PACK_TOKENS,
            "gptq": asdict(options.gptq),
            "picture_weight": options.picture_weight,
            "average_bits": options.average_bits,
            "quality_samples": self.quality_samples,
            "own_text": None if self.own_text is None else self.own_text.sha256,
            # The memory budget is left out: it changes no bit, and a started export may go on with another one.
        }


def resolve_rounding(options: RoundingOptions, precision: DecoderPrecision, rounded_elsewhere: bool) -> Rounding:
    """Checks the options and reads the calibration set.

    Args:
        options: What the user chose.
        precision: Precision of the decoder's layers.
        rounded_elsewhere: Whether the decoder comes from a GPTQ checkpoint.

    Raises:
        InputError: The set is unusable, or an option is out of range.
        ExportError: Options contradict one another.
    """
    check_options(options, precision, rounded_elsewhere)
    asked = options.calibration is not None or options.method == "gptq" or options.average_bits is not None
    calibrated = asked or (options.method is None and precision == "int4" and not rounded_elsewhere)
    method = options.method or ("gptq" if calibrated else "rtn")
    wanted = options.quality_samples
    if wanted is None:
        # Measuring takes longer than rounding, so the default export does without.
        wanted = QUALITY_SAMPLES if asked or options.max_kl is not None else 0
    calibration, own_text = _read_sets(options, wanted) if calibrated else (None, None)
    return Rounding(method, calibration, options, wanted, own_text)


def _read_sets(options: RoundingOptions, held_out: int) -> tuple[CalibrationSet, CalibrationSet | None]:
    """The calibration set, and what is held out of it where it is the user's own file."""
    source, own_text = options.calibration, None
    if source is None or str(source) == BUILTIN:
        found = builtin_set(options.calibration_samples or BUILTIN_SAMPLES)
    else:
        found, own_text = read_and_hold_out(source, options.calibration_samples or FILE_SAMPLES, held_out)
    return without_pictures(found) if options.text_only else found, own_text


@dataclass(frozen=True)
class RoundedDecoder:
    """The outcome of rounding with a calibration set."""

    layers: RoundedLayers
    formats: DecoderFormats
    facts: dict[str, Any]
    """What is known about the rounding, as plain JSON for the manifest and the report."""


def round_with_calibration(
    checkpoint: Checkpoint,
    bundle: Bundle,
    rounding: Rounding,
    formats: DecoderFormats,
    workspace: Path,
    progress: Progress,
    announce: Announce,
    control: ExportControl | None = None,
) -> RoundedDecoder:
    """Rounds the decoder on a calibration set.

    Args:
        checkpoint: The unrounded model.
        bundle: The unfinished bundle, which must have its vision components.
        rounding: How to round; it must have a calibration set.
        formats: How the matrices are stored, unless the options ask for an average of bits.
        workspace: The directory that keeps finished layers.
        progress: Called with a stage's name, the number of finished steps, and the number of all steps.
        announce: Called with a sentence for the user.
        control: Stops the export from another thread; None means that nothing does.

    Raises:
        BudgetError: The memory or the disk does not suffice.
        NumericError: A stage computed a NaN or an infinity.
        ExportError: A matrix cannot be stored in its format.
        InputError: A sample is unusable.
        Cancelled: The export was stopped; the layers that are finished stay in the workspace.
    """
    options = rounding.options
    samples = () if rounding.calibration is None else rounding.calibration.samples
    encoder = sample_encoder(checkpoint, bundle)
    if options.average_bits is not None:
        sensitivity = LayerStore(workspace / "sensitivity", control)
        packs = prepare_packs(encoder, samples, sensitivity, progress)
        formats = _choose_formats(checkpoint, sensitivity, packs, options, formats, progress, announce)
    store = LayerStore(workspace / "layers", control)
    packs = prepare_packs(encoder, samples, store, progress)
    gptq = options.gptq if rounding.method == "gptq" else None
    method = rounding_method(rounding.method, gptq)
    plan = RoundingPlan(method, formats, options.picture_weight, options.budget_bytes)
    state = round_decoder(checkpoint, store, packs, plan, progress, announce)
    return RoundedDecoder(RoundedLayers(checkpoint, store, formats), formats, _facts(rounding, packs, state))


def _choose_formats(
    checkpoint: Checkpoint,
    store: LayerStore,
    packs: Sequence[Pack],
    options: RoundingOptions,
    formats: DecoderFormats,
    progress: Progress,
    announce: Announce,
) -> NamedFormats:
    """Chooses a format for each matrix within the average of bits; lm_head keeps its own."""
    config = checkpoint.config.decoder
    method = SensitivityMethod(store.directory / "losses.json", candidate_formats(formats.layers.symmetric))
    fine = DecoderFormats(MatrixFormat("int8", 32), MatrixFormat("fp32"))
    plan = RoundingPlan(method, fine, options.picture_weight, options.budget_bytes)
    round_decoder(checkpoint, store, packs, plan, lambda _, done, total: progress("sensitivity", done, total), announce)
    if options.average_bits is None:
        return NamedFormats(formats.layers, formats.lm_head, {})
    chosen = allocate_formats(method.choices(config), options.average_bits)
    counts: dict[MatrixFormat, int] = {}
    for matrix_format in chosen.formats.values():
        counts[matrix_format] = counts.get(matrix_format, 0) + 1
    named = ", ".join(
        f"{count} in {matrix_format.precision} by {matrix_format.group_size}" for matrix_format, count in counts.items()
    )
    announce(f"{chosen.average_bits:.3f} bits a weight: {named}")
    most = max(counts, key=lambda matrix_format: counts[matrix_format])
    return NamedFormats(most, formats.lm_head, {**chosen.formats, LM_HEAD: formats.lm_head})


def _facts(rounding: Rounding, packs: Sequence[Pack], state: LayerState) -> dict[str, Any]:
    pictures = sum(int(pack.is_picture.sum()) for pack in packs)
    calibration = rounding.calibration
    return {
        "calibration": {
            "name": "" if calibration is None else calibration.name,
            "sha256": "" if calibration is None else calibration.sha256,
            "samples": 0 if calibration is None else len(calibration.samples),
            "broken": [] if calibration is None else list(calibration.broken),
            "picture_tokens": pictures,
            "text_tokens": sum(pack.rows for pack in packs) - pictures,
            "packs": len(packs),
        },
        "matrices": [record_facts(record) for record in state.records],
        "seconds": {kind: float(f"{amount:.4g}") for kind, amount in state.seconds.items()},
        "cpu_seconds": {kind: float(f"{amount:.4g}") for kind, amount in state.cpu_seconds.items()},
        "layer_seconds": [float(f"{amount:.4g}") for amount in state.step_seconds],
        "peak_bytes": state.peak_bytes,
    }


def check_rounding_memory(checkpoint: Checkpoint, rounding: Rounding) -> None:
    """Refuses before any work what would not fit even with a single row of calibration.

    Args:
        checkpoint: The model.
        rounding: How the decoder is rounded.

    Raises:
        BudgetError: The memory does not suffice.
    """
    if rounding.calibration is not None:
        needed = resident_bytes() + working_bytes(checkpoint.config.decoder, pack_rows=1)
        check_memory(needed, rounding.options.budget_bytes)


def workspace_bytes(checkpoint: Checkpoint, rounding: Rounding, decoder_bytes: int) -> int:
    """Upper bound of the disk space that an export with a calibration set needs besides the bundle, in bytes.

    Args:
        checkpoint: The model.
        rounding: How the decoder is rounded.
        decoder_bytes: Size of the rounded decoder in bytes.
    """
    if rounding.calibration is None:
        return 0
    tokens = sum(_most_tokens(sample) for sample in rounding.calibration.samples)
    # Choosing the formats keeps layers in int8 as well, which are twice as large as int4.
    copies = 1 if rounding.options.average_bits is None else 3
    # The residual stream before and after a layer, also that of the unrounded model, whose middle is kept as well.
    return copies * decoder_bytes + 5 * tokens * checkpoint.config.decoder.hidden_size * 4


def _most_tokens(sample: Sample) -> int:
    """More tokens than a sample has with the released vocabulary, where one has two bytes and seldom fewer."""
    words = sum(len(turn.prompt.encode()) + len(turn.answer.encode()) for turn in sample.turns)
    pictures = len(sample.images) + (FRAMES if sample.video is not None else 0)
    return 50 * len(sample.turns) + words // 2 + 2100 * pictures
