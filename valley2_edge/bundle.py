"""The bundle: a directory that holds a whole exported model and the manifest that describes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from valley2_edge.bundle_files import (
    MANIFEST_NAME,
    MAX_FILES,
    VISION_COMPONENTS,
    beside,
    check_graph_files,
    check_listed,
    check_name,
    check_tower_files,
    unlisted_files,
)
from valley2_edge.config import ModelConfig, first_problem
from valley2_edge.errors import BundleError
from valley2_edge.onnx_references import MAX_GRAPH_BYTES, referenced_files
from valley2_edge.outside_files import (
    FileStamp,
    hash_file,
    is_directory,
    open_regular,
    read_json,
    read_stream,
    shown,
    wait_out_clock,
)
from valley2_edge.precisions import DecoderEngine, DecoderPrecision, OnnxArithmetic, VisionPrecision
from valley2_edge.rotation import Rotation
from valley2_edge.verified_files import VerifiedFiles

FORMAT: Literal["valley2-bundle"] = "valley2-bundle"
FORMAT_VERSION = 2
TOKENIZER_FILE = "tokenizer/tokenizer.json"
NATIVE_DECODER_FILES = ("decoder/decoder.safetensors", "decoder/embeddings.safetensors")
ONNX_WEIGHTS_FILE = "decoder/decoder.onnx.data"
ONNX_EMBEDDINGS_FILE = "decoder/embeddings.onnx"
ONNX_GENAI_FILE = "decoder/genai_config.json"

BundleCheck = Literal["sizes", "quick", "full"]
CheckProgress = Callable[[int, int], None]
"""Called with the bytes checked so far and the bytes in all."""

_Error = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(strict=True, ge=0, le=1 << 50)]
_Files = Annotated[list[str], Field(max_length=MAX_FILES)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FileEntry(_Strict):
    """One file of the bundle."""

    size: _Count
    """Size of the file in bytes."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class VisionComponent(_Strict):
    """A native tower: `siglip`, `projector` or `eagle`."""

    precision: VisionPrecision
    files: _Files
    """The path of the tower's one file, relative to the bundle."""
    relative_error: _Error
    """Error against torch on the exporter's machine: norm of the difference over norm of the reference."""


class MatrixError(_Strict):
    """What rounding cost one matrix of the decoder."""

    name: str
    precision: DecoderPrecision
    relative_error: _Error
    """Norm of the weight difference over norm of the weight."""
    group_size: _Count | None = None
    """Columns that share a scale; None where it is the decoder's own, or there is none."""
    output_error: _Error | None = None
    """Norm of the output difference over norm of the output on the calibration set; None without one."""
    note: str | None = None
    """What went otherwise than asked when it was rounded."""


class DecoderComponent(_Strict):
    """The decoder: two safetensors files, or graphs with a file of weights and the table of embeddings."""

    engine: DecoderEngine = "native"
    """Which run time it is made for: the native core, or ONNX Runtime."""
    precision: DecoderPrecision
    lm_head_precision: DecoderPrecision
    group_size: _Count
    symmetric: bool
    method: str
    """Rounding method: "rtn", "gptq", "nf4", or "none" for fp16 and fp32."""
    files: _Files
    rotation: Rotation | None = None
    """What all weights have absorbed of a change of basis; None: they are the checkpoint's own."""
    matrices: list[MatrixError] = Field(default_factory=list)

    @property
    def group_sizes(self) -> str:
        """Every group size of the layers, for people: "128", or "64 and 128"."""
        special = {
            matrix.group_size or self.group_size for matrix in self.matrices if matrix.precision == self.precision
        }
        return " and ".join(str(size) for size in sorted({self.group_size, *special}))


class Source(_Strict):
    """Where the bundle came from."""

    checkpoint: str
    """A hub id or a directory's name; never an absolute path."""
    revision: str | None
    tool_version: str
    created: str
    """When the bundle was made: UTC in ISO 8601."""
    calibration_sha256: str | None = None


class Manifest(_Strict):
    """The manifest of a bundle, `valley2.json`."""

    format: Literal["valley2-bundle"] = FORMAT
    format_version: int = FORMAT_VERSION
    architecture: ModelConfig
    siglip: VisionComponent
    projector: VisionComponent
    eagle: VisionComponent | None
    graphs: dict[str, list[str]] | None = None
    """ONNX graphs of vision components for engines other than the core: each component's graph, then its weights."""
    decoder: DecoderComponent
    files: Annotated[dict[str, FileEntry], Field(max_length=MAX_FILES)]
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
    """Hashes a file for a manifest.

    Args:
        path: The file.
        progress: Called with the number of bytes of each piece that was read; an exception that it raises stops it.

    Raises:
        BundleError: The file cannot be read, or changed meanwhile.
    """
    return hash_file(path, BundleError, progress)[0]


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files were all found as its manifest says."""

    directory: Path
    """Absolute path of the bundle, without links."""
    manifest: Manifest
    stamps: Mapping[str, FileStamp] | None = None
    """Each file's stamp when it was checked, taken from the open file: what is opened later must have the same. None:
    this process is making the bundle."""

    def path(self, name: str) -> Path:
        """Absolute path of a file of the bundle; who opens it compares its `stamp` or does so inside of `unchanged`.

        Raises:
            BundleError: The manifest does not list it.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.directory}: the bundle has no file {name}")
        return self.directory / name

    def read(self, name: str, limit: int) -> bytes:
        """The content of a file, if it is still the file that was checked.

        Args:
            name: Its path in the bundle.
            limit: Bytes at most.

        Raises:
            BundleError: The manifest does not list it, it has changed, is too large or cannot be read.
        """
        path = self.path(name)
        with open_regular(path, BundleError) as stream:
            self._check_stamp(name, stream.fileno())
            content = read_stream(stream, path, limit, BundleError)
            self._check_stamp(name, stream.fileno())
        return content

    def stamp(self, name: str) -> FileStamp | None:
        """What a file was when it was checked, for the core to compare with what it opens; None: any file will do."""
        return None if self.stamps is None else self.stamps[name]

    @contextmanager
    def unchanged(self, *names: str) -> Iterator[None]:
        """Makes sure that files are those that were checked, before and after a library opens them by their paths.

        Args:
            names: Their paths in the bundle.

        Raises:
            BundleError: One is another file, or was written to.
        """
        for name in names:
            self._check_stamp(name, self.path(name))
        yield
        for name in names:
            self._check_stamp(name, self.path(name))

    def _check_stamp(self, name: str, file: int | Path) -> None:
        if self.stamps is None:
            return
        try:
            unchanged = FileStamp.of(file) == self.stamps[name]
        except OSError:
            unchanged = False
        if not unchanged:
            raise BundleError(
                f"{self.directory / name} has changed since the bundle was checked; load the bundle again"
            )

    @property
    def size(self) -> int:
        """Total size of all files but the manifest, in bytes."""
        return sum(entry.size for entry in self.manifest.files.values())


def open_bundle(path: str | Path, *, check: BundleCheck = "quick", progress: CheckProgress | None = None) -> Bundle:
    """Reads a bundle's manifest and checks every file that it lists, before anything is mapped.

    Args:
        path: The bundle's directory.
        check: "full" hashes every file, and refuses one that lies among them unlisted. "quick" hashes only those that
            changed since they were last hashed on this machine; what was hashed is remembered in the user's data
            directory. "sizes" hashes none: enough to describe a bundle, not to use it.
        progress: Called between the pieces that are read; an exception that it raises stops the check.

    Raises:
        BundleError: The directory is no bundle, is of another version, or a file is missing, damaged or outside.
    """
    directory = Path(path)
    if not is_directory(directory):
        raise BundleError(f"{directory} is not a directory; a bundle is made with `valley2-edge export`")
    directory = directory.resolve()
    manifest = read_manifest(directory)
    try:
        _check_components(manifest)
    except ValueError as error:
        raise BundleError(f"{directory / MANIFEST_NAME}: {error}") from error
    stamps = {name: _check_presence(directory, name, entry) for name, entry in manifest.files.items()}
    if check == "full":
        for name in unlisted_files(directory, manifest.files):
            raise BundleError(
                f"{directory / MANIFEST_NAME} does not list {shown(name)}, which lies in the bundle: remove it"
            )
    if check != "sizes":
        stamps = _check_hashes(directory, manifest, stamps, check, progress)
    bundle = Bundle(directory, manifest, stamps)
    if check != "sizes":
        _check_graphs(bundle)
    return bundle


def read_manifest(directory: Path) -> Manifest:
    """Reads `valley2.json` without looking at the files that it lists.

    Raises:
        BundleError: It is missing, no manifest, or of a version that this release does not read.
    """
    where = directory / MANIFEST_NAME
    if not os.path.lexists(where):
        raise BundleError(f"{directory} is not a bundle: it has no {MANIFEST_NAME}")
    content = read_json(where, BundleError)
    if content.get("format") != FORMAT:
        raise BundleError(f'{where} is not the manifest of a bundle: "format" is not "{FORMAT}"')
    version = content.get("format_version")
    if type(version) is not int or version < 1:
        raise BundleError(f'{where}: "format_version" must be a positive whole number, not {shown(version)}')
    if version != FORMAT_VERSION:
        # The core says the same (src/bundle/manifest.cpp).
        other = "an older release: export it again"
        if version > FORMAT_VERSION:
            other = "a newer release: install a newer valley2-edge"
        raise BundleError(f"{directory} has format version {version} and was made by {other}.")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"{where}: {first_problem(error)}; export the bundle again") from error


def _check_components(manifest: Manifest) -> None:
    """Every component has its own files, and every file that is opened is listed, so that none is used unchecked."""
    for name in manifest.files:
        try:
            check_name(name)
        except ValueError as error:
            raise ValueError(f"{shown(name)} {error}") from error
    if (manifest.eagle is None) != (manifest.architecture.eagle is None):
        raise ValueError("the Eagle component and the architecture disagree")
    decoder = manifest.decoder
    if decoder.engine == "native":
        check_listed(decoder.files, NATIVE_DECODER_FILES, (), "decoder")
    else:
        graphs = [named(arithmetic) for named in (onnx_decoder_file, onnx_head_file) for arithmetic in ("fp32", "fp16")]
        more = [onnx_decoder_file("int8"), onnx_head_file("int8"), ONNX_GENAI_FILE]
        needed = [ONNX_EMBEDDINGS_FILE, ONNX_WEIGHTS_FILE, NATIVE_DECODER_FILES[1], *graphs]
        check_listed(decoder.files, needed, more, "decoder")
    opened = [TOKENIZER_FILE, *decoder.files]
    for name in VISION_COMPONENTS:
        component: VisionComponent | None = getattr(manifest, name)
        if component is not None:
            check_tower_files(name, component.files)
            opened.extend(component.files)
    for name, files in (manifest.graphs or {}).items():
        if name not in VISION_COMPONENTS or getattr(manifest, name) is None:
            raise ValueError(f"graphs names {shown(name)}, which is no vision component of the bundle")
        check_graph_files(name, files)
        opened.extend(files)
    for name in opened:
        if name not in manifest.files:
            raise ValueError(f'{name} is used but not listed in "files"')


def _check_presence(directory: Path, name: str, entry: FileEntry) -> FileStamp:
    path = directory / name
    try:
        if not path.resolve(strict=True).is_relative_to(directory):
            raise BundleError(f"{path} is a link that leads out of the bundle")
    except FileNotFoundError:
        raise BundleError(f"{path} is missing; copy the bundle again as a whole") from None
    except (OSError, RuntimeError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    with open_regular(path, BundleError) as stream:
        stamp = FileStamp.of(stream.fileno())
    if stamp.size != entry.size:
        raise BundleError(f"{path} has {stamp.size} bytes instead of {entry.size}; copy the bundle again")
    return stamp


def _check_hashes(
    directory: Path,
    manifest: Manifest,
    stamps: dict[str, FileStamp],
    check: BundleCheck,
    progress: CheckProgress | None,
) -> dict[str, FileStamp]:
    """Hashes what has to be hashed; returns the stamps of the files that the hashes belong to."""
    total = sum(entry.size for entry in manifest.files.values())
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    verified = VerifiedFiles()
    hashed = dict(stamps)
    try:
        for name, entry in manifest.files.items():
            path = directory / name
            known = verified.sha256(path, stamps[name]) if check == "quick" else None
            if known == entry.sha256:
                advance(entry.size)
                continue
            wait_out_clock(stamps[name])
            found, hashed[name] = hash_file(path, BundleError, advance)
            if found != entry.sha256:
                raise BundleError(f"{path} is damaged: its sha256 is not the manifest's; copy the bundle again")
            verified.remember(path, hashed[name], found)
    finally:
        verified.save()
    return hashed


def _check_graphs(bundle: Bundle) -> None:
    """An ONNX graph refers to listed files only: whatever it names, ONNX Runtime opens."""
    for graph in bundle.manifest.files:
        if not graph.endswith(".onnx"):
            continue
        try:
            names = [beside(graph, name) for name in referenced_files(bundle.read(graph, MAX_GRAPH_BYTES))]
        except ValueError as error:
            raise BundleError(f"{bundle.directory / graph} is not acceptable: {error}") from error
        for name in names:
            if name not in bundle.manifest.files:
                raise BundleError(
                    f'{bundle.directory / graph} has weights in {shown(name)}, which is not listed in "files"'
                )
