"""How `valley2-edge bench` shows its figures to people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table

from valley2_edge.bench.alternation import Measurement, Spread
from valley2_edge.bench.report import Report
from valley2_edge.cli.terminal import print_line
from valley2_edge.runtime.core.probe import LimitName

_UNITS: dict[LimitName, str] = {"read": "GB/s", "int8": "GOPS", "fp32": "GFLOPS", "fp16": "GFLOPS"}
_GIGA = 1e9


def print_report(console: Console, report: Report) -> None:
    """Prints a row for each part, and the limits that the shares are of."""
    columns = (Column(name, justify="right") for name in ("speed", "quartiles", "rate", "share"))
    table = Table(Column("part", no_wrap=True), *columns)
    for measurement in report.prefill:
        _add_row(table, f"prefill {measurement.amount:.0f}", measurement)
    for part, measurement in report.others.items():
        _add_row(table, _name(part, measurement), measurement)
    if report.first_token is not None:
        spread = report.first_token.seconds
        table.add_row("first-token", f"{_number(spread.median)} s", _quartiles(spread), "", "")
    console.print(table)
    rates = {name: f"{rate / _GIGA:.4g} {_UNITS[name]}" for name, rate in report.limits.items()}
    device = report.device_name or report.isa
    print_line(console, f"{device}, {report.threads} threads; medians of {report.options.repetitions} repetitions")
    if not rates:
        return  # interrupted before any limit was read
    first, *rest = (f"{rate} {'read' if name == 'read' else 'in ' + name}" for name, rate in rates.items())
    print_line(
        console,
        f"shares are of what the machine could do in the same moments, in the median {', '.join([first, *rest])}",
    )


def _add_row(table: Table, name: str, measurement: Measurement) -> None:
    speed, rate = measurement.speed, measurement.rate.median / _GIGA
    table.add_row(
        name,
        f"{_number(speed.median)} {measurement.unit}/s",
        _quartiles(speed),
        f"{_number(rate)} {_UNITS[measurement.limit]}",
        f"{measurement.fraction.median:.2f}",
    )


def _name(part: str, measurement: Measurement) -> str:
    if part == "decode":
        return f"decode after {measurement.facts['context']}"
    if part == "eagle":
        return f"Eagle {measurement.facts['patches']}"
    return {"siglip": "SigLIP", "projector": "projector"}[part]


def _number(value: float) -> str:
    return f"{value:.4g}"


def _quartiles(spread: Spread) -> str:
    return f"{_number(spread.lower_quartile)} to {_number(spread.upper_quartile)}"
