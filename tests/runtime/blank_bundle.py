"""Bundles of a chosen size whose weights say nothing: made in seconds, for tests of memory."""

from __future__ import annotations

import json
import shutil
from math import prod
from pathlib import Path

import torch

from valley2_edge.bundle import DecoderComponent, FileEntry, Manifest, Source, VisionComponent, sha256_of_file
from valley2_edge.config import DecoderConfig, EagleConfig, ModelConfig, PictureConfig, ProjectorConfig, SiglipConfig
from valley2_edge.export.checkpoint.tensor_names import eagle_tensors, projector_tensors, siglip_tensors
from valley2_edge.export.checkpoint.weights import Weights
from valley2_edge.export.vision.native_eagle import write_native_eagle
from valley2_edge.export.vision.native_file import precision_beside_int8
from valley2_edge.export.vision.native_projector import write_native_projector
from valley2_edge.export.vision.native_siglip import write_native_siglip
from valley2_edge.precisions import VisionPrecision

TOKENIZER = Path(__file__).parents[1] / "golden" / "ckpt" / "eagle_ovis"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
PANEL = 64


class _BlankWeights(Weights):
    """Tensors of a checkpoint that all have the same number everywhere."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def read(self, name: str) -> torch.Tensor:
        return torch.full(self._shapes[name], 0.01)


def blank_config(*, hidden: int = 1024, layers: int = 6) -> ModelConfig:
    """A model whose weights outweigh the interpreter."""
    return ModelConfig(
        siglip=SiglipConfig(hidden_size=576, num_attention_heads=8, num_hidden_layers=8, intermediate_size=2304),
        projector=ProjectorConfig(input_size=576, mlp_hidden_dim=8000, output_size=hidden),
        eagle=EagleConfig(embed_dim=640, num_heads=8, depth=8, hidden_size=hidden),
        decoder=DecoderConfig(
            hidden_size=hidden,
            intermediate_size=4 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 128,
            num_key_value_heads=2,
            vocab_size=679,
        ),
        picture=PictureConfig(canvases=tuple((384 * i, 384 * j) for i in (1, 2, 3) for j in (1, 2, 3))),
        stop_tokens=(645, 643),
    )


def write_blank_bundle(directory: Path, config: ModelConfig, vision_precision: VisionPrecision) -> Path:
    """Writes a bundle that loads and answers, with an fp16 decoder."""
    for folder in ("vision", "decoder", "tokenizer"):
        (directory / folder).mkdir(parents=True)
    assert config.eagle is not None
    vision, projector_precision = directory / "vision", precision_beside_int8(vision_precision)
    weights = _BlankWeights(siglip_tensors(config.siglip))
    write_native_siglip(weights, config.siglip, vision / "siglip.safetensors", vision_precision)
    weights = _BlankWeights(projector_tensors(config.projector))
    path = vision / "projector.safetensors"
    write_native_projector(weights, config.projector, config.siglip, path, projector_precision)
    weights = _BlankWeights(eagle_tensors(config.eagle))
    write_native_eagle(weights, config.eagle, vision / "eagle.safetensors", vision_precision)
    _write_decoder(directory / "decoder", config.decoder)
    for name in TOKENIZER_FILES:
        shutil.copyfile(TOKENIZER / name, directory / "tokenizer" / name)
    _write_manifest(directory, config, vision_precision)
    return directory


def _write_decoder(directory: Path, config: DecoderConfig) -> None:
    hidden, middle, kv_size = config.hidden_size, config.intermediate_size, config.num_key_value_heads * 128
    matrices = {"lm_head": (config.vocab_size, hidden)}
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {"norm": ("F32", (hidden,))}
    for layer in range(config.num_hidden_layers):
        name = f"layers.{layer}."
        matrices[name + "attention.qkv"] = (hidden + 2 * kv_size, hidden)
        matrices[name + "attention.output"] = (hidden, hidden)
        matrices[name + "mlp.gate_up"] = (2 * middle, hidden)
        matrices[name + "mlp.down"] = (hidden, middle)
        tensors[name + "attention.qkv.bias"] = ("F32", (hidden + 2 * kv_size,))
        tensors[name + "input_norm"] = tensors[name + "post_attention_norm"] = ("F32", (hidden,))
    for name, (rows, columns) in matrices.items():
        tensors[name + ".weight"] = ("F16", (-(-rows // PANEL), columns, PANEL))
    described = {
        name: {"precision": "fp16", "rows": rows, "columns": columns, "group_size": 0, "symmetric": True}
        for name, (rows, columns) in matrices.items()
    }
    plain = config.model_dump() | {"head_size": config.head_size}
    metadata = {
        "format": "valley2-decoder",
        "format_version": "1",
        "config": json.dumps(plain),
        "matrices": json.dumps(described),
    }
    _write_zeros(directory / "decoder.safetensors", tensors, metadata)
    table = {"embeddings.weight": ("F16", (config.vocab_size, hidden))}
    metadata = {"format": "valley2-embeddings", "format_version": "1"}
    _write_zeros(directory / "embeddings.safetensors", table, metadata)


def _write_zeros(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]) -> None:
    """A safetensors file of zeros; every size here is a multiple of 64 bytes."""
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + prod(shape) * (4 if dtype == "F32" else 2)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)


def _write_manifest(directory: Path, config: ModelConfig, vision_precision: VisionPrecision) -> None:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    files = {
        path.relative_to(directory).as_posix(): FileEntry(size=path.stat().st_size, sha256=sha256_of_file(path))
        for path in paths
    }

    def component(name: str, precision: VisionPrecision = vision_precision) -> VisionComponent:
        return VisionComponent(precision=precision, files=[f"vision/{name}.safetensors"], relative_error=0.0)

    decoder = DecoderComponent(
        precision="fp16",
        lm_head_precision="fp16",
        group_size=128,
        symmetric=True,
        method="none",
        files=["decoder/decoder.safetensors", "decoder/embeddings.safetensors"],
    )
    manifest = Manifest(
        architecture=config,
        siglip=component("siglip"),
        projector=component("projector", precision_beside_int8(vision_precision)),
        eagle=component("eagle"),
        decoder=decoder,
        files=files,
        source=Source(checkpoint="blank", revision=None, tool_version="0", created="2000-01-01T00:00:00Z"),
    )
    (directory / "valley2.json").write_text(manifest.model_dump_json(), "utf-8")
