"""One engine in a process of its own; compare.py starts it and speaks with it in lines of JSON.

python benchmarks/peers/worker.py ENGINE SHAPE_AS_JSON THREADS MAX_POSITIONS SCRATCH_DIRECTORY
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amx import refuse_amx

if TYPE_CHECKING:
    from engine import Engine

AMX = "+amx"
"""What the name of an engine ends with that may use AMX; no other engine may."""
ENGINES = {
    "valley2": ("engine_valley2", "open_engine"),
    "valley2-int4-head": ("engine_valley2", "open_engine_with_int4_head"),
    "onnxruntime": ("engine_onnxruntime", "open_engine"),
    "openvino": ("engine_openvino", "open_engine"),
    "openvino-f32": ("engine_openvino", "open_dynamic_engine"),
    "llama.cpp": ("engine_llama", "open_engine"),
}
"""Module and function of each engine."""


def main() -> None:
    """Opens the engine, says what it is, and does what it is told until its input ends."""
    name, shape, threads, most, scratch = sys.argv[1:]
    # Libraries print where they like; the answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    if not name.endswith(AMX):
        refuse_amx()
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before ONNX Runtime is imported
    try:
        from engine import Shape  # needs numpy

        module, function = ENGINES[name.removesuffix(AMX)]
        engine: Engine = getattr(import_module(module), function)(
            Shape.parse(shape), int(threads), int(most), Path(scratch)
        )
    except ImportError as error:
        answer({"missing": str(error)})
        return
    answer({"about": dataclasses.asdict(engine.about)})
    commands: dict[str, Callable[[int], Any]] = {"prefill": engine.prefill, "decode": engine.decode}
    if hasattr(engine, "limits"):
        commands["limits"] = engine.limits
    for line in sys.stdin:
        command, amount = line.split()
        answer({"value": commands[command](int(amount))})


if __name__ == "__main__":
    main()
