"""English documents that lie on a machine with Debian and Rust: books, references, licences, info and man pages."""

from __future__ import annotations

import gzip
import html.parser
import os
import pydoc_data.topics
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

Documents = dict[str, str]
"""Texts by "KIND/NAME"."""

LICENCES = ("MPL-2.0", "Artistic", "GFDL-1.3", "LGPL-2.1", "CC0-1.0", "GPL-3")
INFO_PAGES = ("grep", "diffutils", "nettle")
MAN_PAGES = (
    "perlintro", "perlstyle", "perlfaq4", "git-rebase", "git-merge", "tar", "bash", "ssh", "rsync", "find", "gpg",
    "openssl", "gcc", "make",
)  # fmt: skip
_SKIPPED = ("script", "style", "button", "nav", "pre")
_BLOCKS = ("p", "h1", "h2", "h3")


def gather_documents(rust: Path | None) -> tuple[Documents, list[str]]:
    """Reads what there is.

    Args:
        rust: The folder of Rust's documentation in HTML, which rustup installs; None without one.

    Returns:
        The texts, and what of the documents is not on this machine, in words.
    """
    documents: Documents = {}
    missing = []
    if rust is None:
        missing.append("the documentation of Rust (rustup component add rust-docs, or --rust-docs)")
    else:
        documents |= _rust_books(rust)
    documents |= {f"py/{name}": text for name, text in sorted(pydoc_data.topics.topics.items())}
    for licence in LICENCES:
        path = Path("/usr/share/common-licenses") / licence
        if path.exists():
            documents[f"lic/{licence}"] = path.read_text("utf-8", "replace")
        else:
            missing.append(f"the licence {licence}")
    for page in INFO_PAGES:
        path = Path(f"/usr/share/info/{page}.info.gz")
        if path.exists():
            documents[f"info/{page}"] = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        else:
            missing.append(f"the info page of {page}")
    for page in MAN_PAGES:
        if text := _man_page(page):
            documents[f"man/{page}"] = text
        else:
            missing.append(f"the man page of {page}")
    diagnostics = sorted(Path("/usr/share/perl").glob("5.*.*/pod/perldiag.pod"))
    if diagnostics:
        documents["pod/perldiag"] = diagnostics[-1].read_text("utf-8", "replace")
    else:
        missing.append("perldiag")
    return documents, missing


def find_rust_documentation() -> Path | None:
    """The documentation of the toolchain that rustup uses, or None."""
    rustc = shutil.which("rustc")
    if rustc is None:
        return None
    found = subprocess.run([rustc, "--print", "sysroot"], capture_output=True, text=True, check=False)
    folder = Path(found.stdout.strip()) / "share" / "doc" / "rust" / "html"
    return folder if found.returncode == 0 and folder.is_dir() else None


def _rust_books(rust: Path) -> Documents:
    documents = {f"book/{path.name}": _page_text(path) for path in sorted((rust / "book").glob("ch*.html"))}
    others = [*rust.glob("embedded-book/*/*.html"), *rust.glob("nomicon/*.html"), *rust.glob("cargo/guide/*.html")]
    for path in sorted(others):
        documents[f"rust2/{path.relative_to(rust)}"] = _page_text(path)
    return documents


class _PageReader(html.parser.HTMLParser):
    """Collects the prose of a page: its main part without code."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._in_main = False
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Enters an element."""
        if tag == "main":
            self._in_main = True
        if tag in _SKIPPED:
            self._skipped += 1
        if tag in _BLOCKS:
            self.pieces.append("\n\n")
        if tag == "li":
            self.pieces.append("\n- ")

    def handle_endtag(self, tag: str) -> None:
        """Leaves an element."""
        if tag == "main":
            self._in_main = False
        if tag in _SKIPPED:
            self._skipped -= 1

    def handle_data(self, data: str) -> None:
        """Takes text."""
        if self._in_main and not self._skipped:
            self.pieces.append(re.sub(r"\s+", " ", data))


def _page_text(path: Path) -> str:
    reader = _PageReader()
    reader.feed(path.read_text("utf-8"))
    return re.sub(r"\n{3,}", "\n\n", "".join(reader.pieces)).strip()


def _man_page(name: str) -> str:
    """A man page as plain text; empty when it or the program that formats it is missing."""
    for path in Path("/usr/share/man/man1").glob(f"{name}.1*"):
        for text in _formatted(path):
            if text:
                return re.sub(r"[ \t]+", " ", text)
    return ""


def _formatted(path: Path) -> Iterator[str]:
    """The page by man and, where that is not installed, by groff."""
    environment = {"MANWIDTH": "100", "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    if shutil.which("man"):
        command = ["man", "-E", "utf8", "-l", str(path)]
        yield subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stdout
    if shutil.which("groff"):
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        command = ["groff", "-man", "-Tutf8", "-P-cbou"]
        finished = subprocess.run(command, input=content, capture_output=True, env=environment, check=False)
        yield finished.stdout.decode("utf-8", "replace")
