"""report.html: it stands alone, can be read on every screen, and shows names as text."""

from __future__ import annotations

from html.parser import HTMLParser

from valley2_edge.bundle import DecoderComponent, FileEntry, MatrixError, Source
from valley2_edge.export.quality.report import ReportData, render_report

HOSTILE = '"><script src=//evil>\x1b]0;title\x07\u202e'
CHINESE = "\u5546\u54c1\u6a21\u578b"


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(name: str, quality: dict[str, object] | None = None) -> tuple[str, Page]:
    matrices = [
        MatrixError(name=f"layers.0.{kind}", precision="int4", relative_error=0.1, note=name)
        for kind in ("attention.qkv", "attention.output", "mlp.gate_up", "mlp.down")
    ]
    decoder = DecoderComponent(
        precision="int4",
        lm_head_precision="int8",
        group_size=128,
        symmetric=False,
        method="rtn",
        files=[],
        matrices=matrices,
    )
    source = Source(checkpoint=name, revision=None, tool_version="1", created="2025-01-01T00:00:00+00:00")
    files = {name: FileEntry(size=1536, sha256="0" * 64), "b": FileEntry(size=3 << 20, sha256="0" * 64)}
    page = render_report(ReportData(source, decoder, files, quality or {}, {}))
    return page, Page(page)


def test_it_fits_small_and_dark_screens() -> None:
    page, parsed = page_of("model")
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in parsed.tags
    assert "prefers-color-scheme:dark" in page


def test_its_picture_has_a_name() -> None:
    page, parsed = page_of("model")
    (attributes,) = [attributes for tag, attributes in parsed.tags if tag == "svg"]
    assert attributes["role"] == "img" and attributes["aria-label"] == "Relative error of the weights, by layer"
    assert "<title>Relative error of the weights, by layer</title>" in page


def test_it_asks_for_nothing_from_elsewhere() -> None:
    page, parsed = page_of("model")
    assert not [tag for tag, attributes in parsed.tags if {"src", "href", "srcset", "data"} & set(attributes)]
    assert "url(" not in page and "@import" not in page and "http" not in page


def test_names_are_text_whatever_they_hold() -> None:
    page, parsed = page_of(HOSTILE)
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert not any(mark in page for mark in ("\x1b", "\x07", "\u202e"))
    assert '"><script src=//evil>\\x1b]0;title\\x07\\u202e' in parsed.text


def test_other_scripts_stay_as_they_are() -> None:
    page, parsed = page_of(CHINESE)
    assert CHINESE in parsed.text and '<meta charset="utf-8">' in page


def test_the_users_own_text_has_figures_of_its_own() -> None:
    def figure(value: float, **more: float) -> dict[str, float]:
        return {"value": value, "low": value / 2, "high": value * 2, **more}

    held_out = {"samples": 2, "positions": 30, "sha256": "1" * 64, "kept_logits": 64, "mean_tail": 0.01}
    shared = {"mean_kl": figure(0.1), "same_top": figure(0.5), "perplexity_ratio": figure(1.1)}
    quality = {
        **shared,
        "character_error_rate": None,
        "ecom_vqa": None,
        "held_out": {**held_out, "activations": "int8"},
        "own_text": {
            **shared,
            "mean_kl": figure(0.25),
            "perplexity": figure(12.5, reference=10.75),
            **held_out,
            "samples": 7,
            "sha256": "2" * 64,
            "name": HOSTILE,
        },
    }
    _, parsed = page_of("model", quality)
    own = parsed.text.partition("Quality on your own text")[2]
    assert "0.2500" in own and "0.1250 to 0.5000" in own and "12.5" in own and "unrounded 10.75" in own
    assert "7 lines of" in own and "2" * 16 in own
    assert "script" not in {tag for tag, _ in parsed.tags}
    del quality["own_text"]
    assert "your own text" not in page_of("model", quality)[1].text


def test_sizes_have_the_unit_of_every_command() -> None:
    _, parsed = page_of("model")
    assert "1.5 KiB" in parsed.text and "3.0 MiB" in parsed.text
