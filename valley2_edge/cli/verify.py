"""`valley2-edge verify`: does this machine compute what the exporter, or the reference, computed?"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from valley2_edge.chosen_bundle import resolve_bundle
from valley2_edge.cli.bundle_argument import BundleArgument
from valley2_edge.cli.flags import Only, with_flags
from valley2_edge.cli.help_page import examples
from valley2_edge.cli.interrupts import Interrupted, leave, run_until_interrupted
from valley2_edge.cli.option_groups import FLAGS
from valley2_edge.cli.terminal import error_console, output_console, print_line, stage_progress
from valley2_edge.errors import InputError
from valley2_edge.options import LoadOptions, PolicyName

if TYPE_CHECKING:
    from rich.console import Console

    from valley2_edge.bundle import Bundle
    from valley2_edge.config import ModelConfig
    from valley2_edge.runtime.devices.comparison import Row

EXAMPLES = examples("valley2-edge verify nano", "valley2-edge verify my-bundle --device cuda")

EXIT_FAILED = 1
HUB_PREFIX = "hf_"
"""Names of reference outputs that the hub's processor made begin with it."""


@with_flags(FLAGS)
def verify(
    bundle: BundleArgument = None,
    golden: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Compare with the reference's outputs in DIR instead.")
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which model's reference outputs to compare with. By default those of the bundle's checkpoint.",
        ),
    ] = None,
    policy: Annotated[
        PolicyName | None,
        typer.Option(
            help="Whose rules the reference outputs follow. By default hub for names that begin with hf_, else repo."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    *,
    load: Annotated[LoadOptions, Only(("threads", "providers", "device", "vision_engine"))],
) -> None:
    """Hash every file of a bundle and run its self-test, or compare it with reference outputs.

    Exits with 1 when a row fails.
    """
    if golden is None and (variant is not None or policy is not None):
        raise InputError("--variant and --policy choose among reference outputs; name them with --golden DIR")
    if golden is not None and not golden.is_dir():
        raise InputError(f"--golden {golden} is not a directory with reference outputs")
    from valley2_edge.bundle import open_bundle

    directory = resolve_bundle(bundle)
    rows: list[Row] = []

    def compute() -> None:
        found = _self_test(opened, load) if golden is None else _golden(opened, golden, variant, policy, load)
        for row in found:
            rows.append(row)
            show(f"{row.case}: {row.stage}")

    console = error_console()
    try:
        with stage_progress(console) as progress:
            opened = run_until_interrupted(
                lambda: open_bundle(
                    directory, check="full", progress=lambda done, total: progress("checking files", done, total)
                )
            )
        with _status(console) as show:
            run_until_interrupted(compute)
    except Interrupted:
        leave(f"stopped; {_so_far(rows)}; nothing is kept: run the same command again")
    if as_json:
        typer.echo(json.dumps([_as_json(row) for row in rows], indent=2))
    else:
        _print_table(opened, rows)
    if not all(row.passed for row in rows):
        raise typer.Exit(EXIT_FAILED)


def variant_architecture(bundle: ModelConfig, variant: ModelConfig, name: str) -> ModelConfig:
    """The architecture to verify a variant with: the bundle's weights with the variant's picture settings.

    Args:
        bundle: The architecture that was exported.
        variant: The architecture that the variant's own config.json states.
        name: The variant's name, for messages.

    Raises:
        InputError: They differ in more than how pictures become tiles and tokens, so the weights are others.
    """
    # A bundle has an output matrix of its own, also of a model that ties it to the embeddings.
    ties = {"tie_word_embeddings": variant.decoder.tie_word_embeddings}
    decoder = bundle.decoder.model_copy(update=ties)
    merged = bundle.model_copy(update={"picture": variant.picture, "decoder": decoder})
    for part in ("siglip", "projector", "eagle", "decoder"):
        if getattr(merged, part) != getattr(variant, part):
            raise InputError(
                f"variant {name} is another model than the bundle: their {part} differs; "
                f"export the variant's own checkpoint, or name another with --variant"
            )
    return merged


def _self_test(bundle: Bundle, load: LoadOptions) -> Iterator[Row]:
    from valley2_edge.verify.run import self_test

    return self_test(bundle, load)


def _golden(
    bundle: Bundle, directory: Path, variant: str | None, policy: PolicyName | None, load: LoadOptions
) -> Iterator[Row]:
    from valley2_edge.verify.golden import Golden
    from valley2_edge.verify.run import verify_golden

    golden = Golden(directory)
    name = variant or PurePosixPath(bundle.manifest.source.checkpoint).name
    golden.case_names(name)
    architecture, checkpoint = None, golden.checkpoint(name)
    if checkpoint is not None:
        # Needs none of the packages of the export extra.
        from valley2_edge.export.checkpoint.config import read_model_config

        architecture = variant_architecture(bundle.manifest.architecture, read_model_config(checkpoint), name)
    chosen: PolicyName = policy or ("hub" if name.startswith(HUB_PREFIX) else "repo")
    return verify_golden(bundle, golden, name, chosen, architecture, load)


@contextlib.contextmanager
def _status(console: Console) -> Iterator[Callable[[str], None]]:
    """A line on a terminal that says what was compared last; nothing elsewhere."""
    if not console.is_terminal:
        yield lambda text: None
        return
    from valley2_edge.cli.plain_console import plain

    with console.status("computing") as status:
        yield lambda text: status.update(plain(text))


def _so_far(rows: list[Row]) -> str:
    if not rows:
        return "nothing was compared yet"
    failed = _failed(rows)
    outcome = f"{len(failed)} failed: {', '.join(failed)}" if failed else "none failed"
    return f"{len(rows)} rows were compared, {outcome}"


def _failed(rows: list[Row]) -> list[str]:
    return [f"{row.case} {row.stage}" for row in rows if not row.passed]


def _as_json(row: Row) -> dict[str, object]:
    # JSON has no infinity: a comparison that could not be made has no error.
    error = row.error if math.isfinite(row.error) else None
    return {**dataclasses.asdict(row), "error": error, "passed": row.passed}


def _print_table(bundle: Bundle, rows: list[Row]) -> None:
    from rich.table import Table

    from valley2_edge.cli.plain_console import plain

    console = output_console()
    table = Table("case", "stage", "error", "tolerance", "result", "note")
    for row in rows:
        result = plain("pass") if row.passed else plain("FAIL", style="bold red")
        table.add_row(row.case, row.stage, _format(row.error), _format(row.tolerance), result, row.note)
    console.print(table)
    failed = _failed(rows)
    verdict = f"all {len(rows)} rows passed"
    if failed:
        verdict = f"{len(failed)} of {len(rows)} rows failed: {', '.join(failed)}"
    print_line(console, f"{bundle.directory}: every file is intact, {verdict}")


def _format(error: float) -> str:
    if not math.isfinite(error):
        return "-"
    return f"{error:.0f}" if error == int(error) else f"{error:.1e}"
