"""llama.cpp through llama-cpp-python: Q4_0 with a Q6_K output matrix, as its own quantiser makes them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
from engine import MATRICES, About, Shape

Q4_0_BLOCK, Q4_0_BYTES = 32, 18
Q6_K_BLOCK, Q6_K_BYTES = 256, 210
MICRO_BATCH = 512


class LlamaEngine:
    """The C interface, so that Python takes no part in a step."""

    def __init__(self, shape: Shape, threads: int, most: int, scratch: Path) -> None:
        path = scratch / "model.gguf"
        _write_model(path, shape, most)
        llama_cpp.llama_backend_init()
        model_parameters = llama_cpp.llama_model_default_params()
        model_parameters.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_parameters)
        if not self._model:
            raise RuntimeError("llama.cpp does not load the model; its messages are above")
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = most
        parameters.n_batch = most
        parameters.n_ubatch = MICRO_BATCH
        parameters.n_threads = parameters.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise RuntimeError("llama.cpp makes no context; its messages are above")
        ids = np.random.default_rng(0).integers(0, shape.vocabulary, most, dtype=np.int32)
        self._tokens = (llama_cpp.llama_token * most)(*ids.tolist())
        weights = sum(int(np.prod(shape.matrix(name))) for name in MATRICES)
        self.about = About(
            f"llama-cpp-python {llama_cpp.__version__}",
            "Q4_0, output Q6_K",
            weights // Q4_0_BLOCK * Q4_0_BYTES,
            shape.vocabulary * shape.hidden // Q6_K_BLOCK * Q6_K_BYTES,
            ("qkv", "output"),
        )

    def prefill(self, positions: int) -> float:
        """See `Engine`."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        return self._run(positions)

    def decode(self, tokens: int) -> float:
        """See `Engine`."""
        return sum(self._run(1) for _ in range(tokens))

    def _run(self, count: int) -> float:
        batch = llama_cpp.llama_batch_get_one(self._tokens, count)
        begin = time.perf_counter()
        status = llama_cpp.llama_decode(self._context, batch)
        llama_cpp.llama_synchronize(self._context)
        seconds = time.perf_counter() - begin
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        return seconds


def open_engine(shape: Shape, threads: int, most: int, scratch: Path) -> LlamaEngine:
    """See worker.py."""
    return LlamaEngine(shape, threads, most, scratch)


def _write_model(path: Path, shape: Shape, most: int) -> None:
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_name("synthetic")
    writer.add_block_count(shape.layers)
    writer.add_context_length(max(most, 32768))
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("no_vocab")
    _add_tensors(writer, shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tensors(writer: Any, shape: Shape) -> None:
    def add_vector(name: str, size: int, value: float) -> None:
        writer.add_tensor(name, np.full(size, value, np.float32))

    def add_matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, _q4_0(rows, columns), raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    hidden, query_rows = shape.hidden, shape.heads * shape.head_size
    kv_rows = shape.kv_heads * shape.head_size
    add_matrix("token_embd.weight", shape.vocabulary, hidden)
    add_vector("output_norm.weight", hidden, 1.0)
    head = _q6_k(shape.vocabulary, hidden)
    writer.add_tensor("output.weight", head, raw_dtype=gguf.GGMLQuantizationType.Q6_K)
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        add_vector(prefix + "attn_norm.weight", hidden, 1.0)
        add_vector(prefix + "ffn_norm.weight", hidden, 1.0)
        for name, rows in (("q", query_rows), ("k", kv_rows), ("v", kv_rows)):
            add_matrix(f"{prefix}attn_{name}.weight", rows, hidden)
            add_vector(f"{prefix}attn_{name}.bias", rows, 0.01)
        add_matrix(prefix + "attn_output.weight", hidden, query_rows)
        add_matrix(prefix + "ffn_gate.weight", shape.intermediate, hidden)
        add_matrix(prefix + "ffn_up.weight", shape.intermediate, hidden)
        add_matrix(prefix + "ffn_down.weight", hidden, shape.intermediate)


def _q4_0(rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Blocks of an fp16 scale and 32 nibbles around 8."""
    blocks = _random_blocks(rows * columns // Q4_0_BLOCK, Q4_0_BYTES)
    blocks[:, :2] = np.array([columns**-0.5 / 4.6], np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def _q6_k(rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Blocks of 128 + 64 bytes of integers around 32, 16 int8 scales and an fp16 scale."""
    blocks = _random_blocks(rows * columns // Q6_K_BLOCK, Q6_K_BYTES)
    blocks[:, 192:208] = 8
    blocks[:, 208:] = np.array([columns**-0.5 / 18.5 / 8], np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def _random_blocks(count: int, size: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size), np.uint8)
