"""The bundle: a directory that holds a whole exported model and the manifest that describes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from valley2_edge.config import ModelConfig
from valley2_edge.errors import BundleError
from valley2_edge.user_data import FileStamp, VerifiedFiles

MANIFEST_NAME = "valley2.json"
FORMAT: Literal["valley2-bundle"] = "valley2-bundle"
FORMAT_VERSION = 1
MAX_MANIFEST_BYTES = 64 << 20
TOKENIZER_FILE = "tokenizer/tokenizer.json"
ONNX_WEIGHTS_FILE = "decoder/decoder.onnx.data"
ONNX_EMBEDDINGS_FILE = "decoder/embeddings.onnx"
ONNX_GENAI_FILE = "decoder/genai_config.json"

BundleCheck = Literal["sizes", "quick", "full"]
CheckProgress = Callable[[int, int], None]
"""Called with the bytes checked so far and the bytes in all."""

DecoderPrecision = Literal["int4", "int8", "fp16", "fp32"]
DecoderEngine = Literal["native", "onnx"]
OnnxArithmetic = Literal["int8", "fp32", "fp16"]
"""In which an ONNX decoder multiplies: with activations rounded to int8, or with floats of 32 or 16 bits."""
VisionPrecision = Literal["fp16", "fp32", "int8", "bf16"]
"""fp16 and fp32 are ONNX graphs, int8 and bf16 towers of the native core."""
ProjectorPrecision = Literal["fp16", "fp32", "int8"]
"""Of a projector that is a graph, whatever the towers are: int8 has a scale for each channel."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FileEntry(_Strict):
    """One file of the bundle."""

    size: int
    """Bytes."""
    sha256: str


class VisionComponent(_Strict):
    """An ONNX graph or a native tower: `siglip`, `projector` or `eagle`."""

    precision: VisionPrecision
    files: list[str]
    """Paths relative to the bundle: the graph first, or the tower's one file."""
    relative_error: float
    """Against torch on the exporter's machine: norm of the difference over norm of the reference."""


class MatrixError(_Strict):
    """What rounding cost one matrix of the decoder."""

    name: str
    precision: DecoderPrecision
    relative_error: float
    """Norm of the weight difference over norm of the weight."""
    group_size: int | None = None
    """Columns that share a scale; None where it is the decoder's own, or there is none."""
    output_error: float | None = None
    """Norm of the output difference over norm of the output on the calibration set; None without one."""
    note: str | None = None
    """What went otherwise than asked when it was rounded."""


class DecoderComponent(_Strict):
    """The decoder: two safetensors files, or graphs with a file of weights and the table of embeddings."""

    engine: DecoderEngine = "native"
    """Which run time it is made for: the native core, or ONNX Runtime."""
    precision: DecoderPrecision
    lm_head_precision: DecoderPrecision
    group_size: int
    symmetric: bool
    method: str
    """Rounding method: "rtn", "gptq", "nf4", or "none" for fp16 and fp32."""
    files: list[str]
    matrices: list[MatrixError] = Field(default_factory=list)


class Source(_Strict):
    """Where the bundle came from."""

    checkpoint: str
    """A hub id or a directory's name; never an absolute path."""
    revision: str | None
    tool_version: str
    created: str
    """UTC, ISO 8601."""
    calibration_sha256: str | None = None


class Manifest(_Strict):
    """`valley2.json`."""

    format: Literal["valley2-bundle"] = FORMAT
    format_version: int = FORMAT_VERSION
    architecture: ModelConfig
    siglip: VisionComponent
    projector: VisionComponent
    eagle: VisionComponent | None
    decoder: DecoderComponent
    files: dict[str, FileEntry]
    source: Source
    quality: dict[str, Any] = Field(default_factory=dict)
    """Quality that was measured when the bundle was made, by name."""


def onnx_decoder_file(arithmetic: OnnxArithmetic) -> str:
    """The graph of an ONNX decoder's layers, relative to the bundle."""
    return f"decoder/decoder-{arithmetic}.onnx"


def onnx_head_file(arithmetic: OnnxArithmetic) -> str:
    """The graph of an ONNX decoder's output matrix, relative to the bundle."""
    return f"decoder/lm_head-{arithmetic}.onnx"


def sha256_of_file(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Hashes a file with bounded memory.

    Args:
        path: The file.
        progress: Called with the number of bytes of each piece that was read.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 22):
            digest.update(piece)
            if progress is not None:
                progress(len(piece))
    return digest.hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files were all found as its manifest says."""

    directory: Path
    """Absolute, without links."""
    manifest: Manifest

    def path(self, name: str) -> Path:
        """Absolute path of a file of the bundle.

        Raises:
            BundleError: The manifest does not list it.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.directory}: the bundle has no file {name}")
        return self.directory / name

    @property
    def size(self) -> int:
        """Bytes of all files together, the manifest apart."""
        return sum(entry.size for entry in self.manifest.files.values())


def open_bundle(path: str | Path, *, check: BundleCheck = "quick", progress: CheckProgress | None = None) -> Bundle:
    """Reads a bundle's manifest and checks every file that it lists, before anything is mapped.

    Args:
        path: The bundle's directory.
        check: "full" hashes every file. "quick" hashes only those that changed since they were last hashed on this
            machine; what was hashed is remembered in the user's data directory. "sizes" hashes none: enough to
            describe a bundle, not to use it.
        progress: Called between the pieces that are read; an exception that it raises stops the check.

    Raises:
        BundleError: The directory is no bundle, is of another version, or a file is missing, damaged or outside.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise BundleError(f"{directory} is not a directory; a bundle is made with `valley2-edge export`")
    directory = directory.resolve()
    manifest = read_manifest(directory)
    _check_components(directory, manifest)
    stamps = {name: _check_presence(directory, name, entry) for name, entry in manifest.files.items()}
    if check != "sizes":
        _check_hashes(directory, manifest, stamps, check, progress)
    return Bundle(directory, manifest)


def read_manifest(directory: Path) -> Manifest:
    """Reads `valley2.json` without looking at the files that it lists.

    Raises:
        BundleError: It is missing, no manifest, or of a version that this release does not read.
    """
    content = _read_manifest_json(directory)
    where = directory / MANIFEST_NAME
    if content.get("format") != FORMAT:
        raise BundleError(f'{where} is not the manifest of a bundle: "format" is not "{FORMAT}"')
    version = content.get("format_version")
    if type(version) is not int or version < 1:
        raise BundleError(f'{where}: "format_version" must be a positive whole number, not {version!r}')
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{directory} is a bundle of format version {version}, this release of valley2-edge reads up to "
            f"{FORMAT_VERSION}; install a newer valley2-edge"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{where}: {field}: {first['msg']}; export the bundle again") from error


def _read_manifest_json(directory: Path) -> dict[str, Any]:
    where = directory / MANIFEST_NAME
    try:
        size = where.stat().st_size
        if size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{where} is too large for a manifest: {size} bytes")
        content = json.loads(where.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{directory} is not a bundle: it has no {MANIFEST_NAME}") from None
    except OSError as error:
        raise BundleError(f"{where} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where} is not readable JSON: {error}; export the bundle again") from error
    if not isinstance(content, dict):
        raise BundleError(f"{where} is not the manifest of a bundle: it holds no JSON object")
    return content


def _check_components(directory: Path, manifest: Manifest) -> None:
    """Every file that a component needs is listed, so that none is used unchecked."""
    if (manifest.eagle is None) != (manifest.architecture.eagle is None):
        raise BundleError(f"{directory / MANIFEST_NAME}: the Eagle component and the architecture disagree")
    vision = [component for component in (manifest.siglip, manifest.projector, manifest.eagle) if component is not None]
    needed = [TOKENIZER_FILE, *manifest.decoder.files]
    for component in vision:
        if not component.files:
            raise BundleError(f"{directory / MANIFEST_NAME}: a vision component names no file")
        needed.extend(component.files)
    for name in needed:
        if name not in manifest.files:
            raise BundleError(f'{directory / MANIFEST_NAME}: {name} is used but not listed in "files"')


def _check_presence(directory: Path, name: str, entry: FileEntry) -> FileStamp:
    relative = PurePosixPath(name)
    # A backslash or a colon would be a separator or a drive on Windows: refused everywhere, so that a bundle means
    # the same on every machine.
    if not name or relative.is_absolute() or ".." in relative.parts or any(mark in name for mark in "\\:\0"):
        raise BundleError(f"{directory / MANIFEST_NAME}: {name!r} is not a path inside the bundle")
    path = directory / relative
    try:
        if not path.resolve(strict=True).is_relative_to(directory):
            raise BundleError(f"{path} is a link that leads out of the bundle")
        if not path.is_file():
            raise BundleError(f"{path} is not a file")
        stamp = FileStamp.of(path)
    except FileNotFoundError:
        raise BundleError(f"{path} is missing; copy the bundle again as a whole") from None
    except (OSError, RuntimeError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    if stamp.size != entry.size:
        raise BundleError(f"{path} has {stamp.size} bytes instead of {entry.size}; copy the bundle again")
    return stamp


def _check_hashes(
    directory: Path,
    manifest: Manifest,
    stamps: dict[str, FileStamp],
    check: BundleCheck,
    progress: CheckProgress | None,
) -> None:
    total = sum(entry.size for entry in manifest.files.values())
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    verified = VerifiedFiles()
    try:
        for name, entry in manifest.files.items():
            path = directory / name
            known = verified.sha256(path, stamps[name]) if check == "quick" else None
            if known == entry.sha256:
                advance(entry.size)
                continue
            try:
                found = sha256_of_file(path, advance)
            except OSError as error:
                raise BundleError(f"{path} cannot be read: {error.strerror}") from error
            if found != entry.sha256:
                raise BundleError(f"{path} is damaged: its sha256 is not the manifest's; copy the bundle again")
            verified.remember(path, stamps[name], found)
    finally:
        verified.save()
