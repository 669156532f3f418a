"""Turns the decoder of a bundle into a GPTQ checkpoint (docs/interchange.md)."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from valley2_edge.bundle import NATIVE_DECODER_FILES, Bundle
from valley2_edge.bundle_files import MANIFEST_NAME
from valley2_edge.byte_count import format_bytes
from valley2_edge.errors import BudgetError, ExportError
from valley2_edge.export.control import ExportControl, Progress, cancelling_progress, no_progress
from valley2_edge.export.decoder.stored_decoder import StoredDecoder
from valley2_edge.export.gptq.config import CONFIG_FILE, QUANTIZE_CONFIG_FILE
from valley2_edge.export.gptq.output_scales import SCALES_FILE
from valley2_edge.export.gptq.writer import GptqWriter
from valley2_edge.output_lock import output_lock
from valley2_edge.quantize.gptq_checkpoint import GptqFormat
from valley2_edge.runtime.core.decoder import Decoder

TENSORS_FILE = "model.safetensors"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


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
        decoder = manifest.decoder
        config = writer.model_config(manifest.architecture, decoder.method, decoder.rotation)
        _write_json(partial / CONFIG_FILE, config)
        replaced = output.with_name(f".{output.name}.replaced")
        with control.finishing():
            if output.exists():
                output.replace(replaced)
            partial.replace(output)
            control.note_published()
        shutil.rmtree(replaced, ignore_errors=True)
    return output


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
