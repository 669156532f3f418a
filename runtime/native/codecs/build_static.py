"""Builds the picture libraries for wheels: `python build_static.py PREFIX`, static and position-independent.

The sources are those of Debian 12, which mends them for years: each archive is fetched by apt-get from Debian's own
servers, compared with the SHA-256 that is written here, and patched as Debian says. PREFIX gets headers, libraries,
pkg-config files and, in `licenses`, the terms of each library; `-DV2E_CODECS_PREFIX=PREFIX` makes a build use them.
Needs cmake, ninja, a C compiler, nasm, patch, apt-get and its keys; no right of root.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
SOURCES = f"deb-src [signed-by={KEYS}] http://deb.debian.org/debian bookworm main\n"


@dataclass(frozen=True)
class Library:
    """A source package, and how it is built."""

    package: str
    version: str
    archives: dict[str, str]
    """SHA-256 of the sources and of Debian's patches, in this order, by the name of the file."""
    options: tuple[str, ...]
    """Definitions for cmake."""
    omitted: tuple[str, ...] = ()
    """Files that Debian leaves out and that cmake names; nothing is made of them here."""


LIBRARIES = (
    Library(
        "zlib",
        "1:1.2.13.dfsg-1",
        {
            "zlib_1.2.13.dfsg.orig.tar.bz2": "71feb7947e3c00ef125f83b79a4e529bde31171e5babe48b391f06758d1ab0a1",
            "zlib_1.2.13.dfsg-1.debian.tar.xz": "f66cf3d4f2d7defcd4d1fd1fb0a11ee39f1e01b42ec7d059c9dc5c1695133c44",
        },
        (),
        ("win32/zlib1.rc",),
    ),
    Library(
        "libjpeg-turbo",
        "1:2.1.5-2",
        {
            "libjpeg-turbo_2.1.5.orig.tar.gz": "254f3642b04e309fee775123133c6464181addc150499561020312ec61c1bf7c",
            "libjpeg-turbo_2.1.5-2.debian.tar.xz": "cdb2433c2f7101345c1ffa14efb943787c675b86354691a32490845fe4bc9237",
        },
        ("ENABLE_SHARED=OFF", "REQUIRE_SIMD=ON", "WITH_TURBOJPEG=OFF"),
    ),
    Library(
        "libwebp",
        "1.2.4-0.2+deb12u1",
        {
            "libwebp_1.2.4.orig.tar.gz": "7bf5a8a28cc69bcfa8cb214f2c3095703c6b73ac5fba4d5480c205331d9494df",
            "libwebp_1.2.4-0.2+deb12u1.debian.tar.xz": (
                "69cdba4dfe2e1b34d55fa80c1b29c31cacd40dd183812d6bcca7e508a2f7afcd"
            ),
        },
        tuple(
            f"WEBP_BUILD_{tool}=OFF"
            for tool in (
                "ANIM_UTILS",
                "CWEBP",
                "DWEBP",
                "GIF2WEBP",
                "IMG2WEBP",
                "VWEBP",
                "WEBPINFO",
                "WEBPMUX",
                "EXTRAS",
            )
        ),
    ),
)


def fetch(folder: Path) -> None:
    """Puts the archives into a folder and compares them with their digests."""
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "sources.list").write_text(SOURCES)
    apt: list[object] = ["apt-get", "-qq", "-o", "apt::sandbox::user=root"]
    for name, value in (("etc::sourcelist", "sources.list"), ("etc::sourceparts", "none"), ("state::lists", "lists")):
        apt += ["-o", f"dir::{name}={folder / value}"]
    run(*apt, "update", cwd=folder)
    for library in LIBRARIES:
        run(*apt, "source", "--download-only", f"{library.package}={library.version}", cwd=folder)
        for name, expected in library.archives.items():
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            if found != expected:
                sys.exit(f"{name} has the SHA-256 {found}, not {expected}")


def unpack(library: Library, archives: Path, folder: Path) -> Path:
    """Unpacks the sources, patched; returns their folder."""
    original, debian = (archives / name for name in library.archives)
    folder.mkdir()
    with tarfile.open(original) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    with tarfile.open(debian) as archive:
        archive.extractall(source, filter="data")
    series = source / "debian" / "patches" / "series"
    for line in series.read_text().splitlines() if series.is_file() else ():
        patch = line.split("#")[0].strip()
        if patch:
            run("patch", "--strip=1", "--silent", f"--input={series.parent / patch}", cwd=source)
    for name in library.omitted:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).touch()
    return source


def build(library: Library, source: Path, prefix: Path) -> None:
    """Builds a library and installs it with its terms."""
    definitions = (
        "CMAKE_BUILD_TYPE=Release",
        f"CMAKE_INSTALL_PREFIX={prefix}",
        f"CMAKE_INSTALL_LIBDIR={prefix}/lib",
        "CMAKE_POSITION_INDEPENDENT_CODE=ON",
        "BUILD_SHARED_LIBS=OFF",
        "CMAKE_POLICY_VERSION_MINIMUM=3.5",
        *library.options,
    )
    work = source / "build-static"
    run("cmake", "-S", source, "-B", work, "-G", "Ninja", *(f"-D{definition}" for definition in definitions))
    run("cmake", "--build", work)
    run("cmake", "--install", work)
    (prefix / "licenses").mkdir(exist_ok=True)
    shutil.copy(source / "debian" / "copyright", prefix / "licenses" / f"{library.package}.txt")


def run(*command: object, cwd: Path | None = None) -> None:
    """Runs a program; a failure of it ends this one."""
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


def main(prefix: Path) -> None:
    """Fetches, builds and installs everything; a prefix that is complete is left as it is."""
    marker = prefix / "complete"
    expected = repr(LIBRARIES)
    if marker.is_file() and marker.read_text() == expected:
        return
    shutil.rmtree(prefix, ignore_errors=True)
    prefix.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "archives").mkdir()
        fetch(scratch / "archives")
        for library in LIBRARIES:
            build(library, unpack(library, scratch / "archives", scratch / library.package), prefix)
    for shared in (prefix / "lib").glob("*.so*"):  # zlib's own cmake file always builds both
        shared.unlink()
    marker.write_text(expected)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
