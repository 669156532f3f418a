"""Rounds a GGUF file with llama.cpp's quantiser and measures it; llama_models.py starts it and reads one line of JSON.

Needs llama-cpp-python and numpy alone, so that it may run in an environment of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
from figures import Floats, measure_windows

LEAST_LEVEL = 3
"""Warnings of llama.cpp; it says more below than a person reads."""


def show_warning(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    """Shows a message of llama.cpp that a person should read."""
    if LEAST_LEVEL <= level <= LEAST_LEVEL + 1:
        print(text.decode("utf-8", "replace"), end="", file=sys.stderr)


class LlamaModel:
    """A model of llama.cpp that gives logits at every position of a window.

    Args:
        path: A GGUF file.
        positions: Tokens of a window.
        threads: Of llama.cpp.

    Raises:
        RuntimeError: llama.cpp does not load it.
    """

    def __init__(self, path: Path, positions: int, threads: int) -> None:
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        if not self._model:
            raise RuntimeError("llama.cpp does not load the model; its messages are above")
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = positions + 1
        parameters.n_threads = parameters.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise RuntimeError("llama.cpp makes no context; its messages are above")
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(positions, 0, 1)

    def run(self, ids: npt.NDArray[np.int32]) -> Floats:
        """Logits (positions, vocabulary) of a window, (positions,), from an empty context."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        self._batch.n_tokens = len(ids)
        for position, token in enumerate(ids.tolist()):
            self._batch.token[position] = token
            self._batch.pos[position] = position
            self._batch.n_seq_id[position] = 1
            self._batch.seq_id[position][0] = 0
            self._batch.logits[position] = 1
        status = llama_cpp.llama_decode(self._context, self._batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        pointer = llama_cpp.llama_get_logits(self._context)
        # The context's own memory, which the next call overwrites.
        logits: Floats = np.ctypeslib.as_array(pointer, (len(ids), self._vocabulary))
        return logits.copy()


def quantise(source: Path, target: Path, file_type: str, embeddings: str | None, threads: int) -> None:
    """Rounds a file, which appears whole or not at all.

    Raises:
        RuntimeError: llama.cpp fails.
    """
    options = llama_cpp.llama_model_quantize_default_params()
    options.nthread = threads
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{file_type}")
    if embeddings is not None:
        options.token_embedding_type = options.output_tensor_type = getattr(llama_cpp, f"GGML_TYPE_{embeddings}")
    unfinished = target.with_suffix(".unfinished")
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(unfinished).encode(), ctypes.byref(options))
    if status != 0:
        raise RuntimeError(f"llama_model_quantize returned {status}")
    unfinished.replace(target)


def main() -> None:
    """Rounds where the result is not there yet, measures, writes the figures and answers in a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("source", "model", "ids", "reference", "figures"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--type", required=True)
    parser.add_argument("--embeddings")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--windows", type=int, nargs="+", required=True)
    arguments = parser.parse_args()
    # llama.cpp prints where it likes; the answer has a channel of its own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    callback = llama_cpp.llama_log_callback(show_warning)
    llama_cpp.llama_log_set(callback, None)
    begin = time.process_time()
    if not arguments.model.exists():
        quantise(arguments.source, arguments.model, arguments.type, arguments.embeddings, arguments.threads)
    rounded = time.process_time()
    ids = np.load(arguments.ids)
    model = LlamaModel(arguments.model, ids.shape[1] - 1, arguments.threads)
    reference = np.load(arguments.reference, mmap_mode="r")
    figures = measure_windows(
        model.run, arguments.windows, ids, reference, lambda window: print(f"window {window}", file=sys.stderr)
    )
    figures.save(arguments.figures)
    facts = {
        "llama_cpp_python": llama_cpp.__version__,
        "rounding_cpu_seconds": round(rounded - begin, 1),
        "measuring_cpu_seconds": round(time.process_time() - rounded, 1),
    }
    answers.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
