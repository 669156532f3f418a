"""Switches off what libraries of others would tell their makers (docs/privacy.md)."""

from __future__ import annotations

import os

_VARIABLES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")


def switch_off_telemetry() -> None:
    """Tells ONNX Runtime and the Hugging Face libraries to keep quiet; to be called before they are imported.

    ONNX Runtime 1.29 and later looks up a host of its maker and writes a device id and a file of events under the
    user's cache; `onnxruntime.disable_telemetry_events()` comes too late for both. The hub's client looks at the
    environment and names other installed libraries when it asks for a checkpoint. A variable that the user has given a
    value stays as it is; an empty one counts for nothing.
    """
    for name in _VARIABLES:
        if not os.environ.get(name):
            os.environ[name] = "1"
