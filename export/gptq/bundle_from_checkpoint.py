"""Makes a bundle of the decoder of a GPTQ checkpoint and the vision half of another bundle (docs/interchange.md)."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from valley2_edge.bundle import Bundle, DecoderComponent, Manifest, Source
from valley2_edge.errors import ExportError
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
from valley2_edge.export.decoder.writer import export_embeddings, export_rounded_decoder
from valley2_edge.export.gptq.source import GptqDecoder
from valley2_edge.export.selftest.writer import renew_selftest
from valley2_edge.version import __version__

_VISION_QUALITY = "selftest_vision_relative_error"


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
    report = cancelling_progress(control, progress or no_progress)
    decoder = GptqDecoder(directory, vision.manifest.architecture.decoder)
    _check_rotation(decoder, vision)
    conversion = _Conversion(decoder, vision, report)
    with BundleWriter(output.resolve(), conversion.fingerprint(), overwrite=overwrite, control=control) as writer:
        writer.check_space(conversion.bundle_size())
        writer.component("vision", conversion.copy_shared_files)
        writer.component("decoder", conversion.write_decoder)
        writer.component("embeddings", conversion.write_embeddings)
        writer.component("selftest", conversion.write_selftest)
        return writer.publish(_manifest(conversion.decoder, vision, writer))


@dataclass(frozen=True)
class _Conversion:
    """The two sources of a new bundle, and how each of its components is made."""

    decoder: GptqDecoder
    vision: Bundle
    report: Progress

    @property
    def shared_files(self) -> list[str]:
        """The files that the new bundle takes over from the other one."""
        return [name for name in self.vision.manifest.files if name.partition("/")[0] in ("vision", "tokenizer")]

    def fingerprint(self) -> str:
        """The identity of the new bundle: equal fingerprints make equal bundles."""
        identity = {
            "decoder": self.decoder.fingerprint(),
            "vision": {name: self.vision.manifest.files[name].sha256 for name in self.shared_files},
            "tool": __version__,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def bundle_size(self) -> int:
        """Size of the new bundle in bytes."""
        config, formats = self.vision.manifest.architecture.decoder, self.decoder.formats
        weights = file_size(decoder_plan(config, formats), decoder_metadata(config, formats))
        table = file_size(embeddings_plan(config, dtype_name(self.decoder.dtype(EMBEDDINGS))), embeddings_metadata())
        files, shared = self.vision.manifest.files, self.shared_files
        rest = [name for name in files if name in shared or name.startswith("selftest/")]
        return weights + table + sum(files[name].size for name in rest)

    def copy_shared_files(self, target: Path) -> dict[str, Any]:
        """Copies the vision components and the tokenizer."""
        for done, name in enumerate(self.shared_files, 1):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with self.vision.unchanged(name):
                shutil.copyfile(self.vision.path(name), target / name)
            self.report("vision", done, len(self.shared_files))
        return {}

    def write_decoder(self, target: Path) -> dict[str, Any]:
        """Writes the decoder's matrices and norms."""
        config = self.vision.manifest.architecture.decoder
        export_rounded_decoder(self.decoder, config, target, self.decoder.formats, self.report)
        return {}

    def write_embeddings(self, target: Path) -> dict[str, Any]:
        """Writes the embedding table."""
        export_embeddings(self.decoder, self.vision.manifest.architecture.decoder, target, self.report)
        return {}

    def write_selftest(self, target: Path) -> dict[str, Any]:
        """Writes a self-test with the vision half of the other bundle's."""
        architecture, quantized = self.vision.manifest.architecture, self.decoder.formats.quantized
        renew_selftest(target, architecture, self.vision, quantized, self.report)
        return {}


def _check_rotation(decoder: GptqDecoder, vision: Bundle) -> None:
    """Towers and decoder must speak of the residual stream in the same basis."""
    ours, theirs = decoder.rotation, vision.manifest.decoder.rotation
    if ours == theirs:
        return
    found, given = (f"rotated ({one})" if one else "not rotated" for one in (ours, theirs))
    wanted = "hadamard" if ours else "none"
    raise ExportError(
        f"{decoder.path} is {found}, {vision.directory} is {given}: name a bundle that was exported with --rotation "
        f"{wanted}, or export the vision half anew with `valley2-edge export CHECKPOINT --decoder {decoder.path}`"
    )


def _rounded_component(decoder: GptqDecoder) -> DecoderComponent:
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
        rotation=decoder.rotation,
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
        graphs=given.graphs,
        decoder=_rounded_component(decoder),
        files=writer.files(),
        source=Source(
            checkpoint=given.source.checkpoint,
            revision=given.source.revision,
            tool_version=__version__,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        ),
        quality=quality,
    )
