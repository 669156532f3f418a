"""Reads the fat binaries that nvcc makes: which targets they hold, and which kernels each target has.

The container is laid out as NVIDIA's fatbinary.h says: a header, then entries, each with its kind and its target; a
compiled entry is an ELF file.
"""

from __future__ import annotations

import dataclasses
import itertools
import struct
from pathlib import Path

MAGIC = 0xBA55ED50
PTX, ELF = 1, 2
SYMBOL_TABLE, FUNCTION = 2, 2


@dataclasses.dataclass(frozen=True)
class Entry:
    """Code for one target."""

    kind: int
    target: int
    """Ten times the major compute capability plus the minor one."""
    code: bytes

    @property
    def kernels(self) -> set[str]:
        """Names of the functions that can be launched."""
        if self.kind == PTX:
            words = self.code.decode(errors="replace").split()
            return {name.strip("(),") for word, name in itertools.pairwise(words) if word == ".entry"}
        return _elf_functions(self.code)


def read_fatbin(path: Path) -> list[Entry]:
    """All entries of a fatbin whose code is not compressed."""
    data = path.read_bytes()
    magic, _, header_bytes, size = struct.unpack_from("<IHHQ", data)
    assert magic == MAGIC, f"{path} is no fatbin"
    entries, place, end = [], header_bytes, header_bytes + size
    while place < end:
        kind, _, entry_header, entry_bytes = struct.unpack_from("<HHIQ", data, place)
        (target,) = struct.unpack_from("<I", data, place + 28)
        entries.append(Entry(kind, target, data[place + entry_header : place + entry_header + entry_bytes]))
        place += entry_header + entry_bytes
    return entries


def _elf_functions(elf: bytes) -> set[str]:
    """Names of the functions in the symbol table of a 64-bit ELF file (ELF-64 Object File Format, sections 3 and 5)."""
    assert elf[:4] == b"\x7fELF"
    (sections,) = struct.unpack_from("<Q", elf, 40)
    section_bytes, count = struct.unpack_from("<HH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", elf, sections + i * section_bytes) for i in range(count)]
    names = set()
    for _, kind, _, _, offset, size, link, _, _, symbol_bytes in headers:
        if kind != SYMBOL_TABLE:
            continue
        strings = headers[link][4]
        for place in range(offset, offset + size, symbol_bytes):
            name, info, _, section = struct.unpack_from("<IBBH", elf, place)
            if info & 15 == FUNCTION and section != 0:
                begin = strings + name
                names.add(elf[begin : elf.index(b"\0", begin)].decode())
    return names
