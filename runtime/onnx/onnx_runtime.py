"""The one place that imports ONNX Runtime, so that its telemetry is off before it begins (docs/privacy.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valley2_edge.errors import InputError
from valley2_edge.telemetry import switch_off_telemetry

if TYPE_CHECKING:
    import onnxruntime

_CPU = [("CPUExecutionProvider", dict[str, str]())]


NOT_INSTALLED = (
    "ONNX Runtime is not installed: run `pip install 'valley2-edge[onnx]'`, or 'valley2-edge[gpu]' for an NVIDIA GPU."
)


def import_onnxruntime() -> Any:
    """The module `onnxruntime`, which sends and writes nothing about its use.

    Raises:
        InputError: It is not installed; the sentence says how to get it.
    """
    switch_off_telemetry()
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise InputError(NOT_INSTALLED) from error
    return onnxruntime


def open_graph(
    path: Path, options: onnxruntime.SessionOptions, providers: Sequence[tuple[str, dict[str, str]]]
) -> onnxruntime.InferenceSession:
    """Loads a graph for the providers, or for the CPU where they cannot be used; `get_providers` says which.

    ONNX Runtime would fall back by itself, but prints that on stdout, in the middle of an answer.

    Args:
        path: The .onnx file, its data beside it.
        options: Options of the session.
        providers: Providers with their options, in order of preference.

    Raises:
        Exception: The graph cannot be loaded; ONNX Runtime's exceptions have no common base of their own.
    """
    session_type = import_onnxruntime().InferenceSession
    try:
        session = session_type(str(path), options, providers=list(providers), enable_fallback=0)
    except Exception:
        if providers[0][0] == _CPU[0][0]:
            raise
        session = session_type(str(path), options, providers=_CPU, enable_fallback=0)
    # Nor shall a failing run be repeated elsewhere.
    session.disable_fallback()
    return session
