"""Stands for the configuration class that lies beside the released weights."""

from __future__ import annotations

from transformers import Qwen2Config


class ValleyConfig(Qwen2Config):
    """Qwen2's configuration; other keys of config.json become attributes."""

    model_type = "valley"
