"""Every link of the documentation leads somewhere, and every page and section that a source names exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("examples/*/*.md")]
)
PRESENT = [page for page in PAGES if page.name != "CHANGELOG.md"]
"""The pages that say how things are now."""
FOLDERS = ("valley2_edge", "runtime", "export", "quantize", "calibration", "tests", "benchmarks", "examples", "nano")
SUFFIXES = {".py", ".c", ".h", ".cpp", ".hpp", ".cu", ".cuh"}

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.+)$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r'docs/([\w-]+\.md)(?:, "([^"]{1,60})")?')
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)}|docs)/[\w./*-]*)`")
LINE_BREAK = re.compile(r"\n[ \t]*(?://|#|\*)?[ \t]*")


def headings(text: str) -> list[str]:
    return HEADING.findall(FENCE.sub("", text))


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


@cache
def anchors(page: Path) -> frozenset[str]:
    return frozenset(map(anchor, headings(page.read_text(encoding="utf-8"))))


def find_faults(page: Path) -> Iterator[str]:
    """The links of a page that lead nowhere; those to other sites are not followed."""
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        name, _, section = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        if not found.exists():
            yield f"{target} names no file"
        elif section and section not in anchors(found):
            yield f"{target} names no heading"


def sources() -> list[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    return [path for path in found if "node_modules" not in path.parts]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert list(find_faults(page)) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` c\n\n[x](#a-b-c) [x](page.md#a-b-c) [x](https://example.org/#y)\n\n```\n[x](code.md)\n```\n"
    )
    assert list(find_faults(page)) == []
    page.write_text("# A\n\n[x](#b) [x](other.md)\n")
    assert list(find_faults(page)) == ["#b names no heading", "other.md names no file"]


@pytest.mark.parametrize("page", PRESENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_folders_that_a_page_names_exist(page: Path) -> None:
    named = [path for path in PATH.findall(page.read_text(encoding="utf-8")) if not re.search(r"/[A-Z]+$", path)]
    assert [path for path in named if not list(ROOT.glob(path.rstrip("/")))] == []


def test_pages_and_sections_that_sources_name_exist() -> None:
    faults, seen = [], 0
    for path in sources():
        text = path.read_text(encoding="utf-8")
        for name, section in NAMED.findall(LINE_BREAK.sub(" ", text)) if "docs/" in text else ():
            seen += 1
            page = ROOT / "docs" / name
            if not page.is_file():
                faults.append(f"{path.relative_to(ROOT)} names docs/{name}, which is no page")
            elif section and section not in headings(page.read_text(encoding="utf-8")):
                faults.append(f"{path.relative_to(ROOT)} names docs/{name}, {section!r}, which is no heading")
    assert faults == []
    assert seen > 50, "the sources name their pages in another way, and nothing was compared"


def test_every_page_is_listed_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.parent == ROOT / "docs" and f"(docs/{page.name}" not in text] == []
