"""Writes the Unicode tables of the core's tokenizer: `python make_tables.py [../src/text/unicode_tables.cpp]`.

The reference for the model's tokens is the package `tokenizers`, and each library has its own version of Unicode.
Therefore nothing here is read from a data file: `tokenizers` is asked about every code point, and the file names the
version that answered.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

VERSION = "0.23.3"
"""The release of `tokenizers` whose answers are in the file."""
TARGET = Path(__file__).resolve().parents[1] / "src" / "text" / "unicode_tables.cpp"
CODES = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
"""Every code point that a text can have."""
LETTER, NUMBER, SPACE, WORD, UNSTABLE = 1, 2, 4, 8, 16
"""Bits of a property; text/unicode.hpp has the same."""
WIDTH = 118
HANGUL = range(0xAC00, 0xD7A4)
"""Syllables, which are composed by arithmetic."""
HANGUL_MEDIALS_AND_FINALS = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}

_nfd, _nfc = normalizers.NFD().normalize_str, normalizers.NFC().normalize_str


def members(pattern: str) -> set[int]:
    """The code points that a pattern of one character matches, by the regular expressions of `tokenizers`."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    rest = split.pre_tokenize_str("".join(map(chr, CODES)))
    others = {code for _, (begin, end) in rest for code in CODES[begin:end]}
    return set(CODES) - others


def word_members() -> set[int]:
    """The code points beside which a control token with `single_word` does not count."""
    asked = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    asked.add_tokens([AddedToken("x", single_word=True, normalized=False)])
    return {code for code in CODES if 1 not in asked.encode(f"{chr(code)}x").ids}


def combining_classes() -> dict[int, int]:
    """The canonical combining classes above 0: numbers whose order is that of Unicode's.

    A mark goes before U+0345, whose class is the highest, and behind U+0334, whose class is the lowest; a character of
    class 0 stays. Python's own table names the classes; marks that `tokenizers` knows then stand for them.
    """
    marks = [code for code in CODES if _nfd(chr(code)) == chr(code) and (_before(code, 0x345) or _before(0x334, code))]
    ladder = {unicodedata.combining(chr(code)): code for code in reversed(marks) if unicodedata.combining(chr(code))}
    classes: dict[int, int] = {}
    for code in marks:
        same = [key for key, mark in ladder.items() if not (_before(code, mark) or _before(mark, code))]
        if len(same) != 1:
            raise SystemExit(f"U+{code:04X} is of the classes {same}.")
        classes[code] = same[0]
    return classes


def _before(code: int, other: int) -> bool:
    """Whether one mark goes before another that stands before it."""
    return _nfd(chr(other) + chr(code)) != chr(other) + chr(code)


def decompositions() -> dict[int, str]:
    """What each code point becomes in NFD; without those that stay and Hangul's syllables."""
    found = {code: _nfd(chr(code)) for code in CODES if code not in HANGUL}
    return {code: text for code, text in found.items() if text != chr(code)}


def compositions(decomposed: dict[int, str]) -> dict[tuple[int, int], int]:
    """The pairs that NFC makes one character of, without Hangul."""
    pairs: dict[tuple[int, int], int] = {}
    for code, text in decomposed.items():
        if _nfc(chr(code)) == chr(code):
            first = _nfc(text[:-1])
            if len(first) != 1 or _nfc(first + text[-1]) != chr(code):
                raise SystemExit(f"U+{code:04X} is not composed of two characters.")
            pairs[ord(first), ord(text[-1])] = code
    return pairs


def unstable(classes: dict[int, int], pairs: dict[tuple[int, int], int]) -> set[int]:
    """The code points that NFC may change, move or join to what stands before them."""
    seconds = {second for _, second in pairs} | HANGUL_MEDIALS_AND_FINALS
    changed = {code for code in CODES if _nfc(chr(code)) != chr(code)}
    moving = changed | seconds | classes.keys()
    return moving | {code for code in CODES if ord(_nfd(chr(code))[0]) in moving}


def properties(unstable_codes: set[int]) -> list[int]:
    """Runs of equal properties: each is its first code point, shifted by 8 bits, and the bits."""
    sets = {
        LETTER: members(r"\p{L}"),
        NUMBER: members(r"\p{N}"),
        SPACE: members(r"\s"),
        WORD: word_members(),
        UNSTABLE: unstable_codes,
    }
    bits = bytearray(0x110000)
    for bit, codes in sets.items():
        for code in codes:
            bits[code] |= bit
    return [code << 8 | bits[code] for code in range(0x110000) if code == 0 or bits[code] != bits[code - 1]]


def mark_runs(classes: dict[int, int]) -> list[tuple[int, int, int]]:
    """Runs of marks of one class: the first, the last, the class."""
    runs: list[tuple[int, int, int]] = []
    for code in sorted(classes):
        if runs and runs[-1][1] == code - 1 and runs[-1][2] == classes[code]:
            runs[-1] = (runs[-1][0], code, classes[code])
        else:
            runs.append((code, code, classes[code]))
    return runs


def array(kind: str, name: str, entries: Iterable[str]) -> list[str]:
    """The lines of an array and of the span over it, filled as far as they go."""
    lines, line = [f"static constexpr {kind} {name.lower()}[] = {{"], ""
    for entry in entries:
        if len(line) + len(entry) > WIDTH:
            lines.append(line)
            line = ""
        line += entry + ","
    return [*lines, line, "};", f"const std::span<const {kind}> {name}({name.lower()});", ""]


def braced(numbers: Sequence[int]) -> str:
    """A struct's values."""
    return "{" + ",".join(f"{number:#x}" for number in numbers) + "}"


def tables() -> str:
    """The whole file."""
    if tokenizers.__version__ != VERSION:
        raise SystemExit(f"The tables are those of tokenizers {VERSION}, but {tokenizers.__version__} is installed.")
    classes, decomposed = combining_classes(), decompositions()
    pairs = compositions(decomposed)
    pool = "".join(decomposed[code] for code in sorted(decomposed))
    number: Callable[[int], str] = "{:#x}".format
    lengths = (code << 8 | len(decomposed[code]) for code in sorted(decomposed))
    lines = [
        f"// Made by unicode/make_tables.py from the answers of tokenizers {VERSION}. Do not edit.",
        "// clang-format off",
        '#include "text/unicode_tables.hpp"',
        "",
        "namespace v2e {",
        "",
        *array("uint32_t", "PROPERTY_RUNS", map(number, properties(unstable(classes, pairs)))),
        *array("MarkRun", "MARK_RUNS", map(braced, mark_runs(classes))),
        *array("uint32_t", "DECOMPOSITIONS", map(number, lengths)),
        *array("char32_t", "DECOMPOSED", (number(ord(character)) for character in pool)),
        *array("Composition", "COMPOSITIONS", (braced((*pair, pairs[pair])) for pair in sorted(pairs))),
        "} // namespace v2e",
    ]
    return "\n".join(lines) + "\n"


def main(target: str = str(TARGET)) -> None:
    """Asks and writes."""
    Path(target).write_text(tables(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
