"""The unrounded decoder by torch and transformers in float32: log-probabilities of every window, in a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM
from windows import PREDICTIONS
from work import WorkFolder

_COPIED = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
    "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings", "bos_token_id", "eos_token_id",
)  # fmt: skip


def missing_windows(work: WorkFolder, wanted: Sequence[int]) -> list[int]:
    """Those of the wanted windows that the reference does not have yet."""
    there = _there(work)
    return [window for window in wanted if window not in there]


def _there(work: WorkFolder) -> list[int]:
    """The windows that the reference has; none when it belongs to other windows."""
    if not work.reference_windows.exists() or not work.reference.exists():
        return []
    content = json.loads(work.reference_windows.read_text("utf-8"))
    return list(content["windows"]) if content["sha256"] == windows_sha256(work) else []


def windows_sha256(work: WorkFolder) -> str:
    """What tells these windows from others."""
    return hashlib.sha256(work.windows.read_bytes()).hexdigest()


def compute_reference(
    work: WorkFolder, ids: npt.NDArray[np.int32], windows: Sequence[int], threads: int
) -> Iterator[int]:
    """Computes windows and yields the index of each that is written.

    The file has room for all windows, 100 MB each with a vocabulary of 49,152; those that are not computed take no
    disk on most file systems.

    Args:
        work: Where the checkpoint is, and where to write.
        ids: All windows, (windows, 512).
        windows: Indices of those to compute.
        threads: Of torch.
    """
    torch.set_num_threads(threads)
    model = load_reference(work.checkpoint("plain"))
    shape = (len(ids), PREDICTIONS, model.config.vocab_size)
    there, digest = _there(work), windows_sha256(work)
    mode = "r+" if there else "w+"
    target = np.lib.format.open_memmap(work.reference, mode, np.float32, shape if mode == "w+" else None)
    for window in windows:
        inputs = torch.from_numpy(ids[window, :-1].astype(np.int64))[None]  # (1, 511)
        with torch.inference_mode():
            target[window] = model(inputs).logits[0].float().log_softmax(-1).numpy()
        target.flush()
        there.append(window)
        content = {"sha256": digest, "windows": there}
        work.reference_windows.write_text(json.dumps(content) + "\n", "utf-8")
        yield window


def load_reference(checkpoint: Path) -> Any:
    """The decoder of a checkpoint as transformers' Qwen2 in float32.

    Raises:
        ValueError: The checkpoint lacks a tensor of the decoder or has one too many.
    """
    configuration = json.loads((checkpoint / "config.json").read_text("utf-8"))
    settings: dict[str, Any] = {key: configuration[key] for key in _COPIED}
    settings["rope_parameters"] = {"rope_type": "default", "rope_theta": configuration["rope_theta"]}
    settings["attn_implementation"] = "sdpa"
    model: Any = Qwen2ForCausalLM(Qwen2Config(**settings))
    model.float()
    tensors = {
        name: tensor.float()
        for name, tensor in load_file(checkpoint / "model.safetensors").items()
        if name.startswith("model.layers.") or name in ("model.embed_tokens.weight", "model.norm.weight")
    }
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if unexpected or set(missing) > {"lm_head.weight"}:
        raise ValueError(f"{checkpoint}: tensors {missing} are missing, {unexpected} are not known")
    model.tie_weights()
    return model.eval()
