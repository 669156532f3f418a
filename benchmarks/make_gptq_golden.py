"""Writes tests/golden/gptq: tiny Qwen2 decoders that GPTQModel quantised, with the weights and logits it computes.

    pip install "torch>=2.8,<2.14" "transformers>=5.14,<6" gptqmodel==7.6.0 tokenizers
    GPTQMODEL_CPU_WORKERS=2 python benchmarks/make_gptq_golden.py DIR

Needs nothing of this project. Random weights; some groups have one sign only, so that their zero points lie at the
ends.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # it fails with fewer, which is what it takes on two cores

import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 32
KEPT_FILES = ("config.json", "quantize_config.json", "model.safetensors", "expected.json")
CASES: dict[str, dict[str, Any]] = {
    "symmetric": {"bits": 4, "group_size": 32, "sym": True, "format": "gptq"},
    "asymmetric": {"bits": 4, "group_size": 64, "sym": False, "format": "gptq"},
    "asymmetric_v2": {"bits": 4, "group_size": 32, "sym": False, "format": "gptq_v2"},
    "int8": {"bits": 8, "group_size": 64, "sym": True, "format": "gptq"},
    "activation_order": {"bits": 4, "group_size": 32, "sym": True, "desc_act": True, "format": "gptq"},
}


def write_model(directory: Path) -> None:
    """A random Qwen2 of one layer in bfloat16, with a tokenizer."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        eos_token_id=2,
        bos_token_id=1,
        pad_token_id=0,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        layer = model.model.layers[0]
        layer.mlp.down_proj.weight[:16].abs_()
        layer.mlp.down_proj.weight[16:32].abs_().neg_()
        layer.self_attn.o_proj.weight[::3].abs_()
    model.bfloat16().save_pretrained(directory)
    Tokenizer(WordLevel({f"t{i}": i for i in range(VOCABULARY)}, unk_token="t0")).save(
        str(directory / "tokenizer.json")
    )
    tokens = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "t0", "eos_token": "t2", "pad_token": "t0"}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokens), "utf-8")


def quantize(source: Path, directory: Path, offload: Path, options: dict[str, Any]) -> None:
    """Quantises on random tokens."""
    config = QuantizeConfig(device="cpu", offload_to_disk_path=str(offload), **{"desc_act": False, **options})
    model = GPTQModel.load(str(source), config)
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(3, VOCABULARY, (64,), generator=generator).tolist() for _ in range(8)]
    model.quantize([{"input_ids": text, "attention_mask": [1] * len(text)} for text in texts], batch_size=1)
    model.save(str(directory))


def expect(directory: Path) -> dict[str, Any]:
    """What GPTQModel computes from the checkpoint in fp16."""
    loaded = GPTQModel.load(str(directory), device="cpu", backend=BACKEND.GPTQ_TORCH, dtype=torch.float16).model
    hashes = {
        name: hashlib.sha256(module.dequantize_weight().T.contiguous().half().numpy().tobytes()).hexdigest()
        for name, module in loaded.named_modules()
        if hasattr(module, "qweight")
    }
    tokens = list(range(3, VOCABULARY - 1))
    with torch.inference_mode():
        logits = loaded(torch.tensor([tokens])).logits[0, -1].float()
    last = [round(value, 4) for value in logits.tolist()]
    return {"input_ids": tokens, "last_logits": last, "sha256_of_fp16_weights": hashes}


def trim(directory: Path) -> None:
    """Keeps what a reader looks at, without the paths of this machine."""
    for path in directory.iterdir():
        if path.name not in KEPT_FILES:
            path.unlink()
    for name in ("config.json", "quantize_config.json"):
        values = json.loads((directory / name).read_text("utf-8"))
        values.get("quantization_config", values)["meta"].pop("offload_to_disk_path", None)
        (directory / name).write_text(json.dumps(values, indent=1) + "\n", "utf-8")


def main() -> int:
    """Writes a directory for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="directory to fill")
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "model"
        write_model(source)
        for name, options in CASES.items():
            quantize(source, output / name, Path(temporary) / "offload", options)
            if not options.get("desc_act"):  # which this project refuses
                expected = json.dumps(expect(output / name), indent=1)
                (output / name / "expected.json").write_text(expected + "\n", "utf-8")
            trim(output / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
