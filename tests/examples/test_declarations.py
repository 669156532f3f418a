"""What the examples for Node.js and C# declare of valley2.h is what the header says, by the word of a C compiler."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "runtime" / "native" / "include"
NODE = ROOT / "examples" / "node" / "lib" / "declarations.js"
CSHARP = ROOT / "examples" / "csharp" / "Native.cs"

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler (Debian: build-essential)")

KINDS = {
    "size_t": "unsigned 8",
    "uint32_t": "unsigned 4",
    "uint64_t": "unsigned 8",
    "int32_t": "signed 4",
    "float": "float 4",
    "double": "float 8",
    "nuint": "unsigned 8",
    "uint": "unsigned 4",
    "ulong": "unsigned 8",
    "int": "signed 4",
    "nint": "pointer 8",
    # Enums of C#, declared with `: uint`.
    "EventKind": "unsigned 4",
    "StopReason": "unsigned 4",
}
"""What the types of the declarations are in memory."""

PROGRAM = """
#include "valley2.h"
#include <stdio.h>

#define KIND(lvalue) _Generic((lvalue), \\
    float: "float", double: "float", int32_t: "signed", int64_t: "signed", \\
    uint32_t: "unsigned", uint64_t: "unsigned", default: "pointer")
#define FIELD(type, name) \\
    printf(#type " " #name " %%zu %%s %%zu\\n", offsetof(type, name), KIND(((type *)0)->name), \\
           sizeof(((type *)0)->name))

int main(void) {
%s
    return 0;
}
"""


class Field(NamedTuple):
    name: str
    offset: int
    kind: str
    """"unsigned", "signed", "float" or "pointer", and the size in bytes."""


class Struct(NamedTuple):
    size: int
    fields: list[Field]


def lay_out(declared: list[tuple[str, str]]) -> Struct:
    """Puts fields, each with its name and its kind, where a C compiler on a machine of 64 bits does."""
    fields, end, widest = [], 0, 1
    for name, kind in declared:
        size = int(kind.split()[1])
        offset = -(-end // size) * size
        fields.append(Field(name, offset, kind))
        end, widest = offset + size, max(widest, size)
    return Struct(-(-end // widest) * widest, fields)


def node_structs() -> dict[str, Struct]:
    text = NODE.read_text("utf-8")
    found = re.findall(r"koffi\.struct\('(\w+)', \{\n(.*?)\n\}\);", text, re.DOTALL)
    assert len(found) == text.count("koffi.struct("), "a struct is written in another way, and was not compared"

    def kind(declared: str) -> str:
        return "pointer 8" if declared.endswith("*") else KINDS[declared]

    return {
        name: lay_out([(field, kind(declared)) for field, declared in re.findall(r"^  (\w+): '(.+?)',", body, re.M)])
        for name, body in found
    }


def csharp_structs() -> dict[str, Struct]:
    text = CSHARP.read_text("utf-8")
    found = re.findall(r"internal struct (\w+)\n\{\n(.*?)\n\}", text, re.DOTALL)
    assert len(found) == text.count("LayoutKind.Sequential") > 0
    return {
        name: lay_out([(field, KINDS[declared]) for declared, field in re.findall(r"public (\w+) (\w+);", body)])
        for name, body in found
    }


@pytest.fixture(scope="module")
def header_text() -> str:
    return (INCLUDE / "valley2.h").read_text("utf-8")


def ask_compiler(names: list[str], header_text: str, directory: Path) -> dict[str, Struct]:
    """The structs of the header. Their fields' names are read from its text, all else is asked of the compiler."""
    lines = []
    for name in names:
        body = re.search(rf"typedef struct {name} \{{(.*?)\}} {name};", header_text, re.DOTALL)
        assert body is not None, f"valley2.h has no {name}"
        plain = re.sub(r"/\*.*?\*/", "", body[1], flags=re.DOTALL)
        lines += [f"FIELD({name}, {field});" for field in re.findall(r"(\w+)(?:\[\w+\])?;", plain)]
        lines.append(f'printf("{name} - %zu - 0\\n", sizeof({name}));')
    source = directory / "layout.c"
    source.write_text(PROGRAM % "\n".join(lines))
    command = ["cc", "-std=c11", "-I", INCLUDE, source, "-o", directory / "layout"]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    printed = subprocess.run([directory / "layout"], capture_output=True, text=True, check=True).stdout
    structs = {name: Struct(0, []) for name in names}
    for line in printed.splitlines():
        name, field, number, kind, size = line.split()
        if field == "-":
            structs[name] = structs[name]._replace(size=int(number))
        else:
            structs[name].fields.append(Field(field, int(number), f"{kind} {size}"))
    return structs


@pytest.mark.parametrize("declared", [node_structs, csharp_structs])
def test_structs_are_those_of_the_header(declared, header_text: str, tmp_path: Path) -> None:
    structs = declared()
    assert {"v2e_event", "v2e_model_options", "v2e_session_options", "v2e_question"} <= structs.keys()
    in_header = ask_compiler(list(structs), header_text, tmp_path)
    for name, struct in structs.items():
        assert struct == in_header[name], name


def test_a_field_of_another_type_is_noticed(header_text: str, tmp_path: Path) -> None:
    (event,) = ask_compiler(["v2e_event"], header_text, tmp_path).values()
    declared = [(field.name, field.kind) for field in event.fields]
    assert lay_out(declared) == event
    assert lay_out([(name, "float 4" if name == "kind" else kind) for name, kind in declared]) != event
    assert lay_out(declared[:-1]) != event


@pytest.mark.parametrize(
    ("constant", "prefix"), [("CODES", "V2E_(?:ERROR_)?"), ("STOPS", "V2E_STOP_"), ("Event", "V2E_EVENT_")]
)
def test_numbers_of_the_node_package_are_those_of_the_header(constant: str, prefix: str, header_text: str) -> None:
    kinds = {"CODES": "v2e_status", "STOPS": "v2e_stop_reason", "Event": "v2e_event_kind"}
    body = re.search(rf"typedef enum {kinds[constant]} \{{(.*?)\}}", header_text, re.DOTALL)
    assert body is not None
    numbers = {name.lower(): int(number) for name, number in re.findall(rf"\b{prefix}(\w+) = (\d+)", body[1])}
    text = NODE.read_text("utf-8")
    if constant == "Event":
        declared = re.search(r"Event = \{(.*?)\}", text)
        assert declared is not None
        named = {name.lower(): int(number) for name, number in re.findall(r"(\w+): (\d+)", declared[1])}
        assert named.items() <= numbers.items() and len(named) > 5
    else:
        declared = re.search(rf"{constant} = \[(.*?)\]", text)
        assert declared is not None
        assert {name: number for number, name in enumerate(re.findall(r"'(\w+)'", declared[1]))} == numbers


def test_functions_of_the_examples_are_in_the_header(header_text: str) -> None:
    known = set(re.findall(r"V2E_API [^;(]*?\b(v2e_\w+)\(", header_text))
    assert len(known) > 20
    node = set(re.findall(r"'[^']*?\b(v2e_\w+)\(", NODE.read_text("utf-8"))) - {"v2e_event_callback"}
    csharp = set(re.findall(r"static partial \w+ (v2e_\w+)\(", CSHARP.read_text("utf-8")))
    assert len(node) > 10 and len(csharp) > 10
    assert node | csharp <= known
