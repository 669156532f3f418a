"""Checks the GPTQ checkpoints that this project writes and reads against GPTQModel and transformers, on the CPU.

    pip install "torch>=2.8,<2.14" "transformers>=5.14,<6" gptqmodel==7.6.0 optimum==2.3.0 "valley2-edge[export]"
    GPTQMODEL_CPU_WORKERS=2 python benchmarks/check_gptqmodel.py

On a small random Valley2. Written: bundles of several formats are converted; what GPTQModel unpacks must be the
bundle's weights, and its logits and those of transformers must be near the bundle's. Read: GPTQModel quantises the
decoder; exported with it, a bundle must answer like GPTQModel with the same decoder. GPTQModel computes in fp16, the
bundle's decoder with int16 activations and float32 sums.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # it fails with fewer, which is what it takes on two cores

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from valley2_edge.bundle import open_bundle
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.decoder.parts import LM_HEAD, DecoderMatrix, decoder_parts
from valley2_edge.export.decoder.stored_decoder import StoredDecoder
from valley2_edge.export.gptq.checkpoint_from_bundle import write_gptq_checkpoint
from valley2_edge.export.gptq.source import weight_heights
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.pipeline import export_bundle
from valley2_edge.export.rounding.options import RoundingOptions
from valley2_edge.export.synthetic.checkpoint import small_config, write_synthetic_checkpoint
from valley2_edge.export.synthetic.tokenizer import write_tokenizer
from valley2_edge.runtime.core.decoder import Decoder

Row = tuple[str, float, float]
"""What was checked, the error, and the largest that passes."""

LOGIT_TOLERANCE = 2e-2
"""Relative error; fp16 arithmetic makes 1e-3, the kernel that GPTQModel chooses for int4 on the CPU up to 1e-2."""
WRITTEN: dict[str, dict[str, Any]] = {
    "int4, groups of 32, symmetric": {"group_size": 32, "symmetric": True},
    "int4, groups of 64": {"group_size": 64},
    "int4, groups of 128": {"group_size": 128},
    "int8": {"precision": "int8"},
}
READ: dict[str, dict[str, Any]] = {
    "gptq, symmetric": {"bits": 4, "group_size": 32, "sym": True, "format": "gptq"},
    "gptq, asymmetric": {"bits": 4, "group_size": 128, "sym": False, "format": "gptq"},
    "gptq_v2, asymmetric": {"bits": 4, "group_size": 64, "sym": False, "format": "gptq_v2"},
    "gptq, 8 bits": {"bits": 8, "group_size": 128, "sym": True, "format": "gptq"},
}
BASE_VOCABULARY = 400
PROMPT_LENGTH = 48


def make_checkpoint(directory: Path) -> None:
    """Writes a small random Valley2."""
    tokenizer = directory.with_name("tokenizer")
    tokenizer.mkdir()
    stop = write_tokenizer(tokenizer, BASE_VOCABULARY)
    config = small_config(vocab_size=max(stop) + 64, stop_tokens=stop)
    write_synthetic_checkpoint(directory, config, tokenizer)


def native_logits(bundle: Path, tokens: list[int]) -> NDArray[np.float32]:
    """(tokens, vocabulary) by the native decoder with int16 activations."""
    with (
        Decoder(bundle / "decoder", activations="int16") as decoder,
        decoder.session(kv_precision="fp32") as session,
    ):
        session.prefill([np.array(tokens, np.int32)], logit_rows=len(tokens))
        return session.logits(len(tokens))


def logits_of(model: torch.nn.Module, tokens: list[int]) -> NDArray[np.float32]:
    """(tokens, vocabulary) by a model of transformers."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([tokens])).logits[0].float()
    return logits.numpy()


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Norm of the difference divided by the norm of the expected logits."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def load_gptqmodel(directory: Path, backend: str) -> torch.nn.Module:
    """A checkpoint as GPTQModel loads it."""
    from gptqmodel import BACKEND, GPTQModel

    loaded = GPTQModel.load(str(directory), device="cpu", backend=BACKEND[backend], dtype=torch.float16)
    model: torch.nn.Module = loaded.model
    return model


def unequal_weights(model: torch.nn.Module, bundle: Path) -> list[str]:
    """Layers whose weights, as GPTQModel unpacks them in float32, are not the bundle's, bit for bit."""
    decoder = StoredDecoder(bundle)
    unequal = []
    for part in decoder_parts(decoder.config):
        if not isinstance(part, DecoderMatrix) or part.name == LM_HEAD:
            continue
        pieces = torch.split(decoder.matrix(part.name), weight_heights(part, decoder.config))
        for weight, ours in zip(part.weights, pieces, strict=True):
            layer: Any = model.get_submodule(weight.removesuffix(".weight"))
            layer.scales = layer.scales.float()  # it multiplies in the dtype of the scales
            if not torch.equal(layer.dequantize_weight().T.float(), ours):
                unequal.append(weight)
            layer.scales = layer.scales.half()
    return unequal


def check_written(checkpoint: Path, work: Path, tokens: list[int]) -> Iterator[Row]:
    """What this project writes, read by GPTQModel and transformers."""
    from transformers import AutoModelForCausalLM

    for index, (name, options) in enumerate(WRITTEN.items()):
        nearest = RoundingOptions(method="rtn")  # what is compared is the format, not the rounding
        bundle = export_bundle(checkpoint, work / f"bundle{index}", ExportOptions(rounding=nearest, **options))
        directory = write_gptq_checkpoint(open_bundle(bundle), work / f"written{index}")
        expected = native_logits(bundle, tokens)
        model = load_gptqmodel(directory, "GPTQ_TORCH")
        unequal = unequal_weights(model, bundle)
        yield f"{name}: weights", float(len(unequal)), 0.0
        yield f"{name}: GPTQModel", relative_error(logits_of(model, tokens), expected), LOGIT_TOLERANCE
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float16)
        yield f"{name}: transformers", relative_error(logits_of(model, tokens), expected), LOGIT_TOLERANCE


def check_read(checkpoint: Path, work: Path, tokens: list[int]) -> Iterator[Row]:
    """What GPTQModel writes, read by this project."""
    decoder = work / "decoder"
    write_qwen2(checkpoint, decoder)
    for index, (name, options) in enumerate(READ.items()):
        directory = work / f"quantized{index}"
        quantize_with_gptqmodel(decoder, directory, work / "offload", options)
        bundle = export_bundle(
            checkpoint, work / f"read{index}", ExportOptions(decoder=directory, lm_head_precision="fp16")
        )
        model = load_gptqmodel(directory, "GPTQ_TORCH")
        yield f"{name}: weights", float(len(unequal_weights(model, bundle))), 0.0
        error = relative_error(native_logits(bundle, tokens), logits_of(model, tokens))
        yield f"{name}: logits", error, LOGIT_TOLERANCE


def write_qwen2(checkpoint: Path, directory: Path) -> None:
    """The decoder of a checkpoint as a directory of transformers."""
    directory.mkdir()
    with Checkpoint.open(checkpoint) as source:
        config = source.config.decoder
        names = ["model.embed_tokens.weight"]
        for part in decoder_parts(config):
            names += [*part.weights, *part.biases] if isinstance(part, DecoderMatrix) else [part.weight]
        tensors = {name: source.tensor(name) for name in names}
        stop = source.config.stop_tokens
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    values = {**config.model_dump(), "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    values |= {"torch_dtype": "bfloat16", "eos_token_id": stop[0], "bos_token_id": stop[1], "pad_token_id": stop[1]}
    (directory / "config.json").write_text(json.dumps(values), "utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(checkpoint / name, directory / name)


def quantize_with_gptqmodel(source: Path, directory: Path, offload: Path, options: dict[str, Any]) -> None:
    """Quantises a directory of transformers on random tokens."""
    from gptqmodel import GPTQModel, QuantizeConfig

    config = QuantizeConfig(desc_act=False, device="cpu", offload_to_disk_path=str(offload), **options)
    model = GPTQModel.load(str(source), config)
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, BASE_VOCABULARY, (64,), generator=generator).tolist() for _ in range(16)]
    model.quantize([{"input_ids": text, "attention_mask": [1] * len(text)} for text in texts], batch_size=1)
    model.save(str(directory))


def main() -> int:
    """Prints a table; 1 when something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="an empty directory for what is made (default: a temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.keep or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        checkpoint = work / "checkpoint"
        make_checkpoint(checkpoint)
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(0, BASE_VOCABULARY, (PROMPT_LENGTH,), generator=generator).tolist()
        rows = [*check_written(checkpoint, work, tokens), *check_read(checkpoint, work, tokens)]
    failed = 0
    for name, error, tolerance in rows:
        passed = error <= tolerance
        failed += not passed
        print(f"{name:<45} {error:<10.2g} {'pass' if passed else 'FAIL'}")
    print(f"{failed} of {len(rows)} checks failed" if failed else f"all {len(rows)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
