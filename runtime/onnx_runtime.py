"""The one place that imports ONNX Runtime, so that its telemetry is off before it begins (docs/privacy.md)."""

from __future__ import annotations

from typing import Any

from valley2_edge.telemetry import switch_off_telemetry


def import_onnxruntime() -> Any:
    """The module `onnxruntime`, which sends and writes nothing about its use."""
    switch_off_telemetry()
    import onnxruntime

    return onnxruntime
