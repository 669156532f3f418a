"""`valley2-edge inspect`: what a bundle holds and where it came from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from valley2_edge.bundle_files import VISION_COMPONENTS
from valley2_edge.byte_count import format_bytes
from valley2_edge.chosen_bundle import resolve_bundle
from valley2_edge.cli.bundle_argument import BundleArgument
from valley2_edge.cli.help_page import examples
from valley2_edge.cli.terminal import output_console, print_line

if TYPE_CHECKING:
    from valley2_edge.bundle import Bundle, Manifest

EXAMPLES = examples("valley2-edge inspect nano", "valley2-edge inspect my-bundle --json")


@dataclass(frozen=True)
class ComponentRow:
    """One part of a bundle, as a row of the table."""

    name: str
    precision: str
    bytes: int
    relative_error: float | None
    """The largest error that export measured; None where nothing is rounded or computed."""


def inspect(
    bundle: BundleArgument = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest and the sizes as JSON.")] = False,
) -> None:
    """Show a bundle's components, precisions, sizes and source."""
    from valley2_edge.bundle import open_bundle

    opened = open_bundle(resolve_bundle(bundle), check="sizes")
    rows = component_rows(opened.manifest)
    if as_json:
        content = {
            "directory": str(opened.directory),
            "total_bytes": opened.size,
            "components": [asdict(row) for row in rows],
            "manifest": opened.manifest.model_dump(mode="json"),
        }
        typer.echo(json.dumps(content, indent=2))
        return
    _print_tables(opened, rows)


def component_rows(manifest: Manifest) -> list[ComponentRow]:
    """The parts of a bundle in the order in which a picture passes them, then the other files."""
    rows = []
    for name in VISION_COMPONENTS:
        component = getattr(manifest, name)
        if component is not None:
            size = _size_of(manifest, component.files)
            rows.append(ComponentRow(name, component.precision, size, component.relative_error))
    if manifest.graphs:
        files = [name for graph in manifest.graphs.values() for name in graph]
        rows.append(ComponentRow("graphs", f"ONNX, of {', '.join(manifest.graphs)}", _size_of(manifest, files), None))
    decoder = manifest.decoder
    precision: str = decoder.precision
    if decoder.precision == "int4":
        levels = "nf4" if decoder.method == "nf4" else "symmetric" if decoder.symmetric else "asymmetric"
        precision += f", groups of {decoder.group_sizes}, {levels}"
    if decoder.lm_head_precision != decoder.precision:
        precision += f", lm_head {decoder.lm_head_precision}"
    if decoder.engine == "onnx":
        precision += ", for ONNX Runtime"
    error = max((matrix.relative_error for matrix in decoder.matrices), default=None)
    rows.append(ComponentRow("decoder", precision, _size_of(manifest, decoder.files), error))
    named = {"vision", "decoder"}
    for folder in sorted({name.split("/")[0] for name in manifest.files} - named):
        files = [name for name in manifest.files if name.split("/")[0] == folder]
        rows.append(ComponentRow(folder, "", _size_of(manifest, files), None))
    return rows


def _size_of(manifest: Manifest, files: list[str]) -> int:
    return sum(manifest.files[name].size for name in files)


def _print_tables(bundle: Bundle, rows: list[ComponentRow]) -> None:
    from rich.table import Table

    console, manifest = output_console(), bundle.manifest
    source, decoder = manifest.source, manifest.architecture.decoder
    print_line(console, f"{bundle.directory}: {format_bytes(bundle.size)}")
    table = Table("component", "precision", "size", "relative error")
    for row in rows:
        error = "" if row.relative_error is None else f"{row.relative_error:.1e}"
        table.add_row(row.name, row.precision, format_bytes(row.bytes), error)
    console.print(table)
    revision = f" at {source.revision}" if source.revision else ""
    facts = {
        "source": f"{source.checkpoint}{revision}",
        "made": f"{source.created} by valley2-edge {source.tool_version}, format version {manifest.format_version}",
        "decoder": f"{decoder.num_hidden_layers} layers of {decoder.hidden_size}, vocabulary of {decoder.vocab_size}, "
        f"context of {decoder.max_position_embeddings}",
        "projector": manifest.architecture.projector.type,
        "rounding": _rounding(manifest),
        "rotation": str(manifest.decoder.rotation or "none"),
    }
    if source.calibration_sha256:
        facts["calibration"] = source.calibration_sha256
    for name, value in manifest.quality.items():
        facts[f"quality: {name}"] = _written(value)
    for name, value in facts.items():
        print_line(console, f"{name}: {value}")


def _written(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_written(part)}" for name, part in value.items())
    return f"{value:.1e}" if isinstance(value, float) else str(value)


def _rounding(manifest: Manifest) -> str:
    """The rounding method and the matrix that it cost most."""
    decoder = manifest.decoder
    if not decoder.matrices:
        return decoder.method
    worst = max(decoder.matrices, key=lambda matrix: matrix.relative_error)
    return f"{decoder.method}; largest relative error {worst.relative_error:.1e} in {worst.name}"
