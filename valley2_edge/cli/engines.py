"""`valley2-edge engines`: what this machine makes of a bundle's towers for other engines, and keeps for the user.

ONNX graphs are made of the towers themselves, TensorRT's engines of the graphs.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from valley2_edge.byte_count import format_bytes
from valley2_edge.chosen_bundle import resolve_bundle
from valley2_edge.cli.bundle_argument import BundleArgument
from valley2_edge.cli.graph_packages import require_graph_packages
from valley2_edge.cli.help_page import HelpfulCommand, HelpfulGroup, examples
from valley2_edge.cli.terminal import error_console, output_console, print_line, stage_progress
from valley2_edge.errors import EngineError, InputError
from valley2_edge.options import EAGLE_MAX_TOKENS
from valley2_edge.policy import EAGLE_CAPS

if TYPE_CHECKING:
    from valley2_edge.bundle import Bundle
    from valley2_edge.runtime.core.vision_engine import ComponentName
    from valley2_edge.runtime.devices.samples import Feed
    from valley2_edge.runtime.onnx.graph_cache import GraphKey
    from valley2_edge.runtime.trt.api import Flavour, TensorRt
    from valley2_edge.runtime.trt.cache import EngineKey

Component = Literal["siglip", "projector", "eagle"]

app = typer.Typer(cls=HelpfulGroup, add_completion=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def engines(context: typer.Context) -> None:
    """Make vision graphs and TensorRT engines on this machine, list and remove them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    cls=HelpfulCommand,
    epilog=examples("valley2-edge engines onnx my-bundle"),
)
def onnx(
    bundle: BundleArgument = None,
    component: Annotated[Component | None, typer.Option(help="Make only this one's graph.")] = None,
) -> None:
    """Make ONNX graphs of a bundle's vision towers, for ONNX Runtime and TensorRT; those that are there stay."""
    require_graph_packages()
    opened = _open(bundle)
    console = error_console()
    for name in _components(opened, component):
        if not _make_missing_graph(opened, name):
            print_line(console, f"{name}: is there already")


@app.command(
    cls=HelpfulCommand,
    epilog=examples(
        "valley2-edge engines build my-bundle",
        "valley2-edge engines build my-bundle --compute-capability 8.6",
    ),
)
def build(
    bundle: BundleArgument = None,
    component: Annotated[Component | None, typer.Option(help="Build only this one's engine.")] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(
            metavar="X.Y",
            help="Compute capability of a GPU in another machine, such as 8.6; needs TensorRT-RTX. By default that of "
            "this machine's GPU.",
        ),
    ] = None,
    precision: Annotated[
        Literal["fp16", "fp32"],
        typer.Option(help="fp16 for all but what would overflow, or fp32 for the graph as the bundle has it."),
    ] = "fp16",
    eagle_max_tokens: Annotated[
        int,
        typer.Option(
            min=1,
            max=EAGLE_MAX_TOKENS,
            help="Most Eagle tokens of a picture. The engine is built for the smallest preset that holds them.",
        ),
    ] = EAGLE_CAPS["balanced"],
    image: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A picture like yours, to see what would overflow; give it once for each.",
        ),
    ] = None,
) -> None:
    """Build a bundle's TensorRT engines now instead of at the first question, and its graphs where it has none.

    Engines that are there stay.
    """
    opened = _open(bundle)
    names = _components(opened, component)
    _build(opened, names, compute_capability, precision, eagle_max_tokens, image or [])


@app.command("list", cls=HelpfulCommand, epilog=examples("valley2-edge engines list"))
def list_engines(as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False) -> None:
    """Show the graphs and the engines that are kept, and for which GPU, driver and TensorRT each engine is."""
    from valley2_edge.runtime.onnx.graph_cache import GraphCache
    from valley2_edge.runtime.trt.api import TITLES
    from valley2_edge.runtime.trt.cache import EngineCache

    engine_cache, graph_cache = EngineCache(), GraphCache()
    entries, graphs = engine_cache.entries(), graph_cache.entries()
    if as_json:
        found = {
            "graphs": [_as_json(one.key, one.path, one.size) for one in graphs],
            "engines": [_as_json(one.key, one.path, one.size) for one in entries],
        }
        typer.echo(json.dumps(found, indent=2))
        return
    console, titles = output_console(), {str(name): title for name, title in TITLES.items()}
    from rich.table import Table

    if graphs:
        table = Table("graph", "tower", "size")
        for graph in graphs:
            table.add_row(graph.key.component, graph.key.tower[:8], format_bytes(graph.size))
        console.print(table)
    if entries:
        table = Table("engine", "rows", "GPU", "driver", "built by", "graph", "size")
        for entry in entries:
            key = entry.key
            gpu = f"{key.gpu or 'any'} ({key.capability})"
            title = f"{titles.get(key.flavour, key.flavour)} {key.version}"
            name = f"{key.component} {key.precision}"
            cells = (name, str(key.most_rows), gpu, key.driver or "any", title, key.graph[:8])
            table.add_row(*cells, format_bytes(entry.size))
        console.print(table)
    print_line(console, f"{graph_cache.directory}: {len(graphs)} graphs")
    print_line(console, f"{engine_cache.directory}: {len(entries)} engines")


@app.command(cls=HelpfulCommand, epilog=examples("valley2-edge engines clear"))
def clear() -> None:
    """Remove all graphs and engines that this machine has made; `onnx` and `build` make them again."""
    from valley2_edge.runtime.onnx.graph_cache import GraphCache
    from valley2_edge.runtime.trt.cache import EngineCache

    for cache in (GraphCache(), EngineCache()):
        files, size = cache.clear()
        print_line(output_console(), f"{cache.directory}: {files} files removed, {format_bytes(size)}")


def _open(bundle: Path | None) -> Bundle:
    """The bundle, its files hashed: what is made of them is kept under these hashes."""
    from valley2_edge.bundle import open_bundle

    with stage_progress(error_console()) as progress:
        return open_bundle(resolve_bundle(bundle), progress=lambda done, total: progress("checking files", done, total))


def _components(bundle: Bundle, component: Component | None) -> list[ComponentName]:
    wanted: tuple[ComponentName, ...] = get_args(Component) if component is None else (component,)
    names = [name for name in wanted if getattr(bundle.manifest, name) is not None]
    if not names:
        raise InputError(f"{bundle.directory} has no Eagle branch")
    return names


def _make_missing_graph(bundle: Bundle, name: ComponentName) -> bool:
    """Makes the graph of a component, unless there is one; returns whether it was made."""
    from valley2_edge.runtime.onnx.graph_files import graph_files

    if graph_files(bundle, name) is not None:
        return False
    require_graph_packages()
    from valley2_edge.export.vision.local_graphs import make_local_graph

    with stage_progress(error_console()) as progress:
        path = make_local_graph(bundle, name, progress)
    size = sum(file.stat().st_size for file in path.parent.iterdir())
    print_line(output_console(), f"{path}: {format_bytes(size)}")
    return True


def _as_json(key: EngineKey | GraphKey, path: Path, size: int) -> dict[str, object]:
    return {**dataclasses.asdict(key), "path": str(path), "bytes": size}


def _build(
    bundle: Bundle,
    names: list[ComponentName],
    capability: str | None,
    precision: str,
    eagle_tokens: int,
    pictures: list[Path],
) -> None:
    from valley2_edge.runtime.trt.api import has_target, load_tensorrt
    from valley2_edge.runtime.trt.platform import open_platform
    from valley2_edge.runtime.trt.tower import engine_key

    eagle = bundle.manifest.architecture.eagle
    merged = 1 if eagle is None else eagle.spatial_merge_size**2
    rows: dict[str, int] = {"siglip": 1, "projector": 1, "eagle": eagle_tokens * merged}
    if capability is not None:
        flavour: Flavour = "tensorrt_rtx"
        trt = load_tensorrt(flavour)
        if not has_target(trt, capability):
            raise EngineError(f"TensorRT-RTX {trt.__version__} has no target {capability}")
        keys = [engine_key(bundle, name, flavour, trt, capability, rows[name], precision) for name in names]
        _build_missing(trt, bundle, keys, pictures)
        return
    platform = open_platform()
    try:
        gpu = platform.driver.gpu
        keys = [
            dataclasses.replace(
                engine_key(bundle, name, platform.flavour, platform.trt, gpu.capability, rows[name], precision),
                gpu=gpu.name,
                driver=gpu.driver,
            )
            for name in names
        ]
        with platform.driver.current():
            _build_missing(platform.trt, bundle, keys, pictures)
    finally:
        platform.close()


def _build_missing(trt: TensorRt, bundle: Bundle, keys: list[EngineKey], pictures: list[Path]) -> None:
    from valley2_edge.runtime.devices.samples import sample_inputs
    from valley2_edge.runtime.trt.cache import EngineCache
    from valley2_edge.runtime.trt.tower import build_for

    cache = EngineCache()
    console = error_console()
    for key in keys:
        if cache.find(key) is not None:
            print_line(console, f"{key.component}: is there already")
            continue
        _make_missing_graph(bundle, key.component)
        with stage_progress(console) as progress:

            def show(phase: str, done: int, total: int, name: str = key.component) -> None:
                progress(f"{name}: {phase}", done, total)

            def samples(name: ComponentName = key.component) -> list[Feed]:
                return sample_inputs(bundle, name, pictures)

            if key.precision == "fp16":
                progress(f"{key.component}: looking for what fp16 does not hold", 0, 1)
            try:
                engine = build_for(trt, bundle, key, samples, show)
            except EngineError as error:
                raise EngineError(f"the {key.component} engine was not built: {error}") from error
        path = cache.store(key, engine)
        print_line(output_console(), f"{path}: {format_bytes(path.stat().st_size)}")
