"""A small bundle whose files hold a few bytes each."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from valley2_edge.bundle_files import MANIFEST_NAME
from valley2_edge.config import ModelConfig

FILES = {
    "vision/siglip.safetensors": b"siglip weights",
    "vision/projector.safetensors": b"projector weights",
    "vision/eagle.safetensors": b"eagle weights",
    # The protobuf of a graph that says who made it, and nothing else.
    "vision/siglip.onnx": b"\x12\x06siglip",
    "vision/siglip.onnx.data": b"weights of a graph",
    "decoder/decoder.safetensors": b"decoder weights",
    "decoder/embeddings.safetensors": b"embeddings",
    "tokenizer/tokenizer.json": b"{}",
}


DAMAGED_EAGLE = b"eaqle weights"


def vision(name: str) -> dict[str, Any]:
    return {"precision": "fp32", "files": [f"vision/{name}.safetensors"], "relative_error": 1e-6}


def write_manifest(directory: Path, **changes: Any) -> None:
    content: dict[str, Any] = {
        "format": "valley2-bundle",
        "format_version": 2,
        "architecture": ModelConfig().model_dump(mode="json"),
        "siglip": vision("siglip"),
        "projector": vision("projector"),
        "eagle": vision("eagle"),
        "graphs": {"siglip": ["vision/siglip.onnx", "vision/siglip.onnx.data"]},
        "decoder": {
            "precision": "int4",
            "lm_head_precision": "int8",
            "group_size": 128,
            "symmetric": True,
            "method": "rtn",
            "files": ["decoder/decoder.safetensors", "decoder/embeddings.safetensors"],
        },
        "files": {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in FILES.items()
        },
        "source": {"checkpoint": "x", "revision": None, "tool_version": "0.1.0", "created": "2026-01-01T00:00:00Z"},
    }
    content.update(changes)
    (directory / MANIFEST_NAME).write_text(json.dumps(content))


def with_file(name: str) -> dict[str, Any]:
    files = {known: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for known, data in FILES.items()}
    return {**files, name: {"size": 1, "sha256": "0" * 64}}
