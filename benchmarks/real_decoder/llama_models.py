"""Hands the decoder to llama.cpp: as an F16 file, and to a process that rounds it and measures it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from checkpoint import qwen2_name
from equivalent import padded_shape
from llama_decoder import TrainedModel, pairs_of_halves
from safetensors.torch import load_file
from variants import LlamaType
from work import Base, WorkFolder

from valley2_edge.errors import InputError

WORKER = Path(__file__).with_name("llama_worker.py")
_OWN_FIELDS = ("general.architecture", "general.file_type", "general.quantization_version")
"""What the writer says itself, or what belongs to the old type."""


def write_f16(model: TrainedModel, base: Base, work: WorkFolder, target: Path) -> None:
    """Writes a checkpoint's decoder as llama.cpp's F16, with the trained model's own tokenizer.

    Args:
        model: The trained model, whose tensors are not used.
        base: Which checkpoint.
        work: Where the checkpoint and the trained model are.
        target: The file, which appears whole or not at all.
    """
    shape = model.shape if base == "plain" else padded_shape(model.shape)
    tensors = load_file(work.checkpoint(base) / "model.safetensors")
    unfinished = target.with_suffix(".unfinished")
    writer = gguf.GGUFWriter(unfinished, "llama")
    changed = {
        "llama.embedding_length": shape.hidden,
        "llama.attention.head_count": shape.heads,
        "llama.attention.layer_norm_rms_epsilon": shape.rms_epsilon,
    }
    for name, field in gguf.GGUFReader(work.model_file).fields.items():
        if name.startswith("GGUF.") or name in _OWN_FIELDS:
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        else:
            writer.add_key_value(name, changed.get(name, field.contents()), field.types[0])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for name in model.tensors:
        values = tensors[qwen2_name(name)].float().numpy()
        if ".attn_q." in name or ".attn_k." in name:
            values = pairs_of_halves(values, shape.heads if ".attn_q." in name else shape.kv_heads)
        writer.add_tensor(name, values if values.ndim == 1 else values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.replace(target)


def layer_bits(path: Path) -> float:
    """Stored bits for each weight of the layers' matrices, the blocks' scales included."""
    matrices = [
        tensor
        for tensor in gguf.GGUFReader(path).tensors
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2  # norms are vectors
    ]
    return float(8 * sum(tensor.n_bytes for tensor in matrices) / sum(tensor.n_elements for tensor in matrices))


def measure_type(
    name: str, variant: LlamaType, work: WorkFolder, windows: Sequence[int], python: str, threads: int
) -> dict[str, Any]:
    """Rounds and measures in a process of its own; the figures lie in the work folder afterwards.

    Args:
        name: The variant's name.
        variant: The type.
        work: Where everything is.
        windows: Indices of the windows.
        python: The interpreter that has llama-cpp-python.
        threads: Of llama.cpp.

    Returns:
        Facts for the result: bits a weight, the version of llama-cpp-python, processor seconds.

    Raises:
        InputError: The process fails; its messages are above.
    """
    source = work.gguf(f"{variant.base}-F16")
    model = source if variant.file_type == "F16" else work.gguf(name)
    command = [python, str(WORKER), "--source", str(source), "--model", str(model), "--type", variant.file_type]
    if variant.embeddings is not None:
        command += ["--embeddings", variant.embeddings]
    command += ["--ids", str(work.windows), "--reference", str(work.reference), "--figures", str(work.figures(name))]
    command += ["--threads", str(threads), "--windows", *map(str, windows)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode != 0:
        raise InputError(f"llama.cpp cannot measure {name}; its messages are above.")
    facts: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return facts | {"bits": layer_bits(model)}
