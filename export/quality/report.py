"""Writes report.html, which shows what rounding cost in one file without any resource from elsewhere."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from valley2_edge.bundle import DecoderComponent, FileEntry, MatrixError, Source
from valley2_edge.byte_count import format_bytes
from valley2_edge.duration import format_duration

REPORT_FILE = "report.html"

_STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--soft:#59636e;--line:#d8dee4;--ground:#fff}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa4af;--line:#333b45;--ground:#0d1117}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground)}
body{max-width:62rem;margin:2rem auto;padding:0 1rem;overflow-wrap:anywhere}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;overflow-wrap:normal}
th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:600}
.figures{display:flex;flex-wrap:wrap;gap:.8rem}
.figure{border:1px solid var(--line);border-radius:6px;padding:.6rem 1rem}
.figure b{display:block;font-size:1.3rem}.figure span{color:var(--soft);font-size:.85rem}
p.note{color:var(--soft);font-size:.9rem}
svg{width:100%;min-width:36rem;height:auto}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}svg line{stroke:var(--line)}
"""
_COLOURS = {
    "attention.qkv": "#5483b3", "attention.output": "#8fb3d9", "mlp.gate_up": "#be543a", "mlp.down": "#e0a08c",
}  # fmt: skip
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_KINDS = {
    "forward": "the layers run over the calibration set",
    "hessian": "second moments of the inputs",
    "factor": "their factors",
    "round": "rounding",
}


@dataclass(frozen=True)
class ReportData:
    """What the report shows."""

    source: Source
    decoder: DecoderComponent
    files: Mapping[str, FileEntry]
    quality: Mapping[str, Any]
    """The manifest's `quality`."""
    rounding: Mapping[str, Any]
    """What is known about a rounding with a calibration set; empty without one."""


def render_report(data: ReportData) -> str:
    """Renders the report as HTML with its charts inside.

    Args:
        data: What the report shows.
    """
    decoder = data.decoder
    title = f"{data.source.checkpoint}, {decoder.precision} by {decoder.method}"
    zero_points = "no zero points" if decoder.symmetric else "zero points"
    sections = [
        f"<h1>{_escape(title)}</h1>",
        f"<p>Groups of {decoder.group_sizes}, {zero_points}, lm_head in {decoder.lm_head_precision}; "
        f"valley2-edge {_escape(data.source.tool_version)}.</p>",
        _quality(data.quality),
        _errors(decoder.matrices),
        _calibration(data.rounding),
        _times(data.rounding),
        _sizes(data.files),
        _matrices(decoder.matrices),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )


def _escape(text: str) -> str:
    """Escapes text for HTML; characters that control terminals or the direction of writing are shown as their codes."""
    return html.escape(_CONTROLS.sub(lambda found: ascii(found.group())[1:-1], text))


def _quality(quality: Mapping[str, Any]) -> str:
    held_out = quality.get("held_out")
    if held_out is None:
        return (
            "<h2>Quality</h2><p>Not measured against the unrounded model: export with <code>--calibration</code> or "
            "<code>--quality-samples</code>.</p>"
        )
    shown = [
        *_distance(quality),
        _figure("characters read wrong", quality["character_error_rate"], "{:.2%}"),
        _figure("Ecom-VQA, right in all four orders", quality["ecom_vqa"], "{:.1%}"),
    ]
    note = (
        f"Against the unrounded model in float32 on {held_out['samples']} held-out samples with "
        f"{held_out['positions']} tokens of answers (sha256 {held_out['sha256'][:16]}…), intervals of 95 %. "
        f"KL is computed over the unrounded model's {held_out['kept_logits']} likeliest tokens and one more for all "
        f"others together, which have a probability of {held_out['mean_tail']:.2g} on average: it is a lower bound. "
        f"The bundle ran natively with {held_out['activations']} activations."
    )
    own = _own_text(quality.get("own_text"))
    return f'<h2>Quality</h2><div class="figures">{"".join(shown)}</div><p class="note">{_escape(note)}</p>{own}'


def _distance(figures: Mapping[str, Any]) -> list[str]:
    """How far the bundle is from the unrounded model, on whichever samples the figures are about."""
    return [
        _figure("mean KL, nats a token", figures["mean_kl"], "{:.4f}"),
        _figure("same likeliest token", figures["same_top"], "{:.1%}"),
        _figure("perplexity ratio", figures["perplexity_ratio"], "{:.4f}"),
    ]


def _own_text(own: Mapping[str, Any] | None) -> str:
    """The figures on the user's own lines; nothing without them."""
    if own is None:
        return ""
    shown = [
        *_distance(own),
        _figure("perplexity", own["perplexity"], "{:.4g}"),
    ]
    note = (
        f"The same on {own['samples']} lines of {own['name']} with {own['positions']} tokens of answers (sha256 "
        f"{own['sha256'][:16]}…), which were held out of the calibration; other tokens have a probability of "
        f"{own['mean_tail']:.2g} on average."
    )
    figures = f'<div class="figures">{"".join(shown)}</div>'
    return f'<h2>Quality on your own text</h2>{figures}<p class="note">{_escape(note)}</p>'


def _figure(label: str, facts: Mapping[str, float] | None, pattern: str) -> str:
    if facts is None:
        return ""
    interval = f"{pattern.format(facts['low'])} to {pattern.format(facts['high'])}"
    reference = f"; unrounded {pattern.format(facts['reference'])}" if "reference" in facts else ""
    value = pattern.format(facts["value"])
    return f'<div class="figure">{label}<b>{value}</b><span>{interval}{reference}</span></div>'


def _errors(matrices: Sequence[MatrixError]) -> str:
    """A chart with a group of bars for each layer."""
    layers = [matrix for matrix in matrices if matrix.name.startswith("layers.")]
    if not layers:
        return ""
    measured = all(matrix.output_error is not None for matrix in layers)
    values = [_error(matrix) for matrix in layers]
    what = "of the output on the calibration set" if measured else "of the weights"
    width, height, left, bottom = 960, 260, 46, 24
    top = max(values) or 1.0
    count = 1 + max(int(matrix.name.split(".")[1]) for matrix in layers)
    step = (width - left) / count
    bars = [
        f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3f}</text>'
        for value, y in ((top * part / 4, height - bottom - (height - bottom - 12) * part / 4) for part in range(5))
    ]
    for matrix, value in zip(layers, values, strict=True):
        _, index, kind = matrix.name.split(".", 2)
        place = list(_COLOURS).index(kind)
        bar = step * 0.8 / len(_COLOURS)
        x = left + int(index) * step + step * 0.1 + place * bar
        tall = (height - bottom - 12) * value / top
        bars.append(
            f'<rect x="{x:.1f}" y="{height - bottom - tall:.1f}" width="{bar * 0.92:.1f}" height="{tall:.1f}" '
            f'fill="{_COLOURS[kind]}"><title>{_escape(matrix.name)}: {value:.4f}</title></rect>'
        )
    every = max(1, count // 14)
    bars += [
        f'<text x="{left + (index + 0.5) * step:.1f}" y="{height - 6}" text-anchor="middle">{index}</text>'
        for index in range(0, count, every)
    ]
    legend = "".join(f' <span style="color:{colour}">■</span> {kind}' for kind, colour in _COLOURS.items())
    name = f"Relative error {what}, by layer"
    opening = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}"><title>{name}</title>'
    picture = f'<div class="wide">{opening}{"".join(bars)}</svg></div>'
    return f"<h2>Error by layer</h2><p>Relative error {what}:{legend}</p>{picture}"


def _error(matrix: MatrixError) -> float:
    return matrix.relative_error if matrix.output_error is None else matrix.output_error


def _calibration(rounding: Mapping[str, Any]) -> str:
    if not rounding:
        return ""
    facts = rounding["calibration"]
    rows = [
        ("set", f"{facts['name']} (sha256 {facts['sha256'][:16]}…)"),
        ("samples", f"{facts['samples']} in {facts['packs']} packs"),
        ("picture tokens", f"{facts['picture_tokens']:,}"),
        ("text tokens", f"{facts['text_tokens']:,}"),
        ("left out", f"{len(facts['broken'])}"),
    ]
    return f"<h2>Calibration</h2>{_table(('', ''), rows)}"


def _times(rounding: Mapping[str, Any]) -> str:
    if not rounding:
        return ""
    cpu_seconds = rounding["cpu_seconds"]
    rows = [
        (_KINDS.get(kind, kind), format_duration(amount), format_duration(cpu_seconds[kind]))
        for kind, amount in rounding["seconds"].items()
    ]
    rows.append(("all layers and lm_head", format_duration(sum(rounding["layer_seconds"])), ""))
    peak = rounding["peak_bytes"]
    memory = format_bytes(peak) if peak else "not told by the system"
    rows.append(("memory of the process at most", memory, ""))
    return f"<h2>Time and memory</h2>{_table(('', 'time', 'CPU time of all threads'), rows)}"


def _sizes(files: Mapping[str, FileEntry]) -> str:
    rows = [(name, format_bytes(entry.size)) for name, entry in files.items()]
    rows.append(("all", format_bytes(sum(entry.size for entry in files.values()))))
    return f"<h2>Size</h2>{_table(('file', 'size'), rows)}"


def _matrices(matrices: Sequence[MatrixError]) -> str:
    rows = [
        (
            matrix.name,
            matrix.precision + ("" if matrix.group_size is None else f" by {matrix.group_size}"),
            f"{matrix.relative_error:.4f}",
            "" if matrix.output_error is None else f"{matrix.output_error:.4f}",
            matrix.note or "",
        )
        for matrix in matrices
    ]
    return f"<h2>Matrices</h2>{_table(('matrix', 'format', 'error of the weights', 'of the output', 'note'), rows)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{_escape(title)}</th>" for title in head)
    body = "".join(f"<tr>{''.join(f'<td>{_escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{titles}</tr>{body}</table></div>'
