"""Turns a bundle's decoder into a GPTQ checkpoint, and such a checkpoint into a bundle (docs/interchange.md)."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

from valley2_edge.bundle import NATIVE_DECODER_FILES, Bundle, DecoderComponent, Manifest, Source
from valley2_edge.bundle_files import MANIFEST_NAME
from valley2_edge.byte_count import format_bytes
from valley2_edge.errors import BudgetError, ExportError
from valley2_edge.export.bundle.safetensors_stream import dtype_name, file_size
from valley2_edge.export.bundle.writer import BundleWriter
from valley2_edge.export.checkpoint.tensor_names import EMBEDDINGS
from valley2_edge.export.control import ExportControl, Progress, cancelling_progress, no_progress
from valley2_edge.export.decoder.layout import (
    DECODER_FILE,
    EMBEDDINGS_FILE,
    decoder_metadata,
    decoder_plan,
    embeddings_metadata,
    embeddings_plan,
)
from valley2_edge.export.decoder.stored_decoder import StoredDecoder
from valley2_edge.export.decoder.writer import export_embeddings, export_rounded_decoder
from valley2_edge.export.gptq.config import CONFIG_FILE, QUANTIZE_CONFIG_FILE
from valley2_edge.export.gptq.output_scales import SCALES_FILE
from valley2_edge.export.gptq.source import GptqDecoder
from valley2_edge.export.gptq.writer import GptqWriter
from valley2_edge.export.selftest.writer import renew_selftest
from valley2_edge.output_lock import output_lock
from valley2_edge.quantize.gptq_checkpoint import GptqFormat
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.version import __version__

TENSORS_FILE = "model.safetensors"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_VISION_QUALITY = "selftest_vision_relative_error"


def write_gptq_checkpoint(
    bundle: Bundle,
    output: Path,
    *,
    checkpoint_format: GptqFormat | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    control: ExportControl | None = None,
) -> Path:
    """Writes the decoder of a bundle as a GPTQ checkpoint of a Qwen2 model, without a loss.

    The directory appears under its name only when it is whole.

    Args:
        bundle: The bundle, whose files have been checked.
        output: The directory of the checkpoint.
        checkpoint_format: How zero points are stored. None means `gptq` for a decoder without zero points, else
            `gptq_v2`.
        overwrite: Whether a GPTQ checkpoint that exists may be replaced.
        progress: Called with a stage's name, the number of finished steps, and the number of all steps.
        control: Stops the conversion from another thread; None means that nothing does.

    Returns:
        The directory.

    Raises:
        ExportError: The layout cannot hold a matrix, or the output exists.
        BudgetError: The disk cannot hold the checkpoint.
        Cancelled: `control` was cancelled; nothing is kept.
    """
    output, control = output.resolve(), control or ExportControl()
    _check_output(output, overwrite)
    manifest = bundle.manifest
    if manifest.decoder.engine != "native":
        raise ExportError(f"{bundle.directory} has an ONNX decoder; export the bundle with --decoder-engine native")
    # The core checks every entry of the decoder's headers.
    with bundle.unchanged(*NATIVE_DECODER_FILES), Decoder(bundle.directory / "decoder", threads=1):
        writer = GptqWriter(StoredDecoder(bundle.directory), checkpoint_format)
    with _partial_directory(output, writer.size, control) as partial:
        writer.write_tensors(partial / TENSORS_FILE, cancelling_progress(control, progress or no_progress))
        writer.write_scales(partial / SCALES_FILE)
        _write_json(partial / QUANTIZE_CONFIG_FILE, writer.quantize_config(manifest.decoder.method))
        for name in sorted(name for name in manifest.files if PurePosixPath(name).parts[0] == "tokenizer"):
            with bundle.unchanged(name):
                shutil.copyfile(bundle.path(name), partial / PurePosixPath(name).name)
        # The config comes last: a directory with a config is complete.
        _write_json(partial / CONFIG_FILE, writer.model_config(manifest.architecture, manifest.decoder.method))
        replaced = output.with_name(f".{output.name}.replaced")
        with control.finishing():
            if output.exists():
                output.replace(replaced)
            partial.replace(output)
            control.note_published()
        shutil.rmtree(replaced, ignore_errors=True)
    return output


def bundle_gptq_checkpoint(
    directory: Path,
    output: Path,
    vision: Bundle,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    control: ExportControl | None = None,
) -> Path:
    """Makes a bundle of the decoder of a GPTQ checkpoint and everything else of another bundle, without a loss.

    Args:
        directory: The GPTQ checkpoint.
        output: The bundle's directory.
        vision: The bundle that the vision components, the tokenizer and the architecture come from; its files have been
            checked.
        overwrite: Whether a bundle that exists may be replaced.
        progress: Called with a stage's name, the number of finished steps, and the number of all steps.
        control: Stops the conversion from another thread; None means that nothing does.

    Returns:
        The bundle's directory.

    Raises:
        CheckpointError: The GPTQ checkpoint is damaged, or its sizes differ from those of the architecture.
        ExportError: The checkpoint holds something that a bundle cannot hold, or the output exists.
        BudgetError: The disk cannot hold the bundle.
        NumericError: The decoder computes a NaN or an infinity in the self-test.
        Cancelled: `control` was cancelled; what is finished waits for the next run with the same arguments.
    """
    control = control or ExportControl()
    architecture, report = vision.manifest.architecture, cancelling_progress(control, progress or no_progress)
    decoder = GptqDecoder(directory, architecture.decoder)
    shared = [name for name in vision.manifest.files if name.partition("/")[0] in ("vision", "tokenizer")]
    identity = {
        "decoder": decoder.fingerprint(),
        "vision": {name: vision.manifest.files[name].sha256 for name in shared},
        "tool": __version__,
    }
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def copy(target: Path) -> dict[str, Any]:
        for done, name in enumerate(shared, 1):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with vision.unchanged(name):
                shutil.copyfile(vision.path(name), target / name)
            report("vision", done, len(shared))
        return {}

    def weights(target: Path) -> dict[str, Any]:
        export_rounded_decoder(decoder, architecture.decoder, target, decoder.formats, report)
        return {}

    def embeddings(target: Path) -> dict[str, Any]:
        export_embeddings(decoder, architecture.decoder, target, report)
        return {}

    def selftest(target: Path) -> dict[str, Any]:
        renew_selftest(target, architecture, vision, decoder.formats.quantized, report)
        return {}

    with BundleWriter(output.resolve(), fingerprint, overwrite=overwrite, control=control) as writer:
        writer.check_space(_bundle_size(decoder, vision, shared))
        for name, make in (("vision", copy), ("decoder", weights), ("embeddings", embeddings), ("selftest", selftest)):
            writer.component(name, make)
        return writer.publish(_manifest(decoder, vision, writer))


def rounded_component(decoder: GptqDecoder) -> DecoderComponent:
    """The manifest's entry of a decoder that comes from a GPTQ checkpoint.

    Args:
        decoder: The GPTQ checkpoint.
    """
    layers, lm_head = decoder.formats.layers, decoder.formats.lm_head
    return DecoderComponent(
        precision=layers.precision,
        lm_head_precision=lm_head.precision,
        group_size=layers.group_size,
        symmetric=layers.is_symmetric and lm_head.is_symmetric,
        method=decoder.method,
        files=[DECODER_FILE, EMBEDDINGS_FILE],
    )


def _manifest(decoder: GptqDecoder, vision: Bundle, writer: BundleWriter) -> Manifest:
    given = vision.manifest
    quality = {"decoder_source": decoder.path.resolve().name}
    if _VISION_QUALITY in given.quality:
        quality[_VISION_QUALITY] = given.quality[_VISION_QUALITY]
    return Manifest(
        architecture=given.architecture,
        siglip=given.siglip,
        projector=given.projector,
        eagle=given.eagle,
        decoder=rounded_component(decoder),
        files=writer.files(),
        source=Source(
            checkpoint=given.source.checkpoint,
            revision=given.source.revision,
            tool_version=__version__,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        ),
        quality=quality,
    )


def _bundle_size(decoder: GptqDecoder, vision: Bundle, shared: list[str]) -> int:
    config, formats = vision.manifest.architecture.decoder, decoder.formats
    weights = file_size(decoder_plan(config, formats), decoder_metadata(config, formats))
    table = file_size(embeddings_plan(config, dtype_name(decoder.dtype(EMBEDDINGS))), embeddings_metadata())
    files = vision.manifest.files
    rest = [name for name in files if name in shared or name.startswith("selftest/")]
    return weights + table + sum(files[name].size for name in rest)


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if (output / MANIFEST_NAME).exists() or not (output / QUANTIZE_CONFIG_FILE).is_file():
        raise ExportError(f"{output} exists and is not a GPTQ checkpoint: choose another directory")
    if not overwrite:
        raise ExportError(f"{output} exists: choose another directory or pass --overwrite")


@contextmanager
def _partial_directory(output: Path, needed_bytes: int, control: ExportControl) -> Iterator[Path]:
    """Makes a directory beside the output that is removed on an error, and replaces one that a killed process left."""
    partial = output.with_name(f".{output.name}.partial")
    try:
        with ExitStack() as kept:
            kept.enter_context(output_lock(output))
            kept.callback(shutil.rmtree, partial, ignore_errors=True)
            control.note_place(output, partial, kept.close)
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir(parents=True)
            free = shutil.disk_usage(partial).free
            if needed_bytes > free:
                raise BudgetError(
                    f"the checkpoint needs {format_bytes(needed_bytes)} on the disk of {output.parent}, which has "
                    f"{format_bytes(free)} free: free some space or choose another directory"
                )
            yield partial
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise BudgetError(f"the disk of {output.parent} is full: nothing was kept; free some space") from error
        raise ExportError(f"{error.filename or partial}: {error.strerror or error}") from error


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
