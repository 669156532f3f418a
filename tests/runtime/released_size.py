"""A bundle of the released size whose files say how large they are and hold nothing: plans read no weight."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

from valley2_edge.bench.work import MatrixSize, layer_matrices
from valley2_edge.bundle import (
    MANIFEST_NAME,
    TOKENIZER_FILE,
    Bundle,
    DecoderComponent,
    FileEntry,
    Manifest,
    Source,
    VisionComponent,
)
from valley2_edge.config import DecoderConfig, ModelConfig, PictureConfig
from valley2_edge.export.checkpoint.weights import Weights
from valley2_edge.export.vision.native_eagle import eagle_parts
from valley2_edge.export.vision.native_projector import projector_parts
from valley2_edge.export.vision.native_siglip import siglip_parts

NORMS = ("input_norm", "post_attention_norm")
BYTES = {"U8": 1, "F16": 2, "BF16": 2, "F32": 4}
CANVASES = tuple((384 * width, 384 * height) for width in (1, 2, 3) for height in (1, 2, 3))


def write_released_size(directory: Path) -> Bundle:
    """The default formats: int4 with zero points in groups of 128, the head in int8, vision in bf16."""
    (directory / "decoder").mkdir(parents=True)
    config = ModelConfig(picture=PictureConfig(canvases=CANVASES))
    _write_decoder(directory / "decoder", config.decoder)
    _write_towers(directory / "vision", config)
    files = {"decoder/decoder.safetensors": 0, "decoder/embeddings.safetensors": 0, TOKENIZER_FILE: 4 << 20}
    components = {}
    for name in ("siglip", "projector", "eagle"):
        path = f"vision/{name}.safetensors"
        files[path] = 0
        components[name] = VisionComponent(precision="bf16", files=[path], relative_error=0.0)
    for path in files:
        if path != TOKENIZER_FILE:
            files[path] = (directory / path).stat().st_size
    decoder = DecoderComponent(
        precision="int4",
        lm_head_precision="int8",
        group_size=128,
        symmetric=False,
        method="rtn",
        files=[path for path in files if path.startswith("decoder/")],
    )
    manifest = Manifest(
        architecture=config,
        siglip=components["siglip"],
        projector=components["projector"],
        eagle=components["eagle"],
        decoder=decoder,
        files={path: FileEntry(size=size, sha256="0" * 64) for path, size in files.items()},
        source=Source(checkpoint="released size", revision=None, tool_version="0", created="2000-01-01T00:00:00Z"),
    )
    (directory / MANIFEST_NAME).write_text(manifest.model_dump_json(), "utf-8")
    return Bundle(directory, manifest)


def _write_decoder(directory: Path, config: DecoderConfig) -> None:
    matrices, tensors = {}, {}
    sizes = [matrix for layer in range(config.num_hidden_layers) for matrix in layer_matrices(config, layer)]
    for size in [*sizes, MatrixSize("lm_head", config.vocab_size, config.hidden_size)]:
        head = size.name == "lm_head"
        bits, panels, groups = (8 if head else 4), -(-size.rows // 64), size.columns // 128
        tensors[size.name + ".weight"] = ("U8", (panels, size.columns * bits // 32, 64, 4))
        tensors[size.name + ".scales"] = ("F16", (panels, groups, 64))
        if not head:
            tensors[size.name + ".zeros"] = ("U8", (panels, groups, 64))
        described = {"rows": size.rows, "columns": size.columns, "group_size": 128, "symmetric": head}
        matrices[size.name] = {"precision": f"int{bits}", **described}
        if size.name.endswith("qkv"):
            tensors[size.name + ".bias"] = ("F32", (size.rows,))
    norms = [f"layers.{i}.{name}" for i in range(config.num_hidden_layers) for name in NORMS]
    tensors |= dict.fromkeys(["norm", *norms], ("F32", (config.hidden_size,)))
    plain = config.model_dump() | {"head_size": config.head_size}
    metadata = {"config": json.dumps(plain), "matrices": json.dumps(matrices)}
    table = {"embeddings.weight": ("BF16", (config.vocab_size, config.hidden_size))}
    for name, what, more in (("decoder", tensors, metadata), ("embeddings", table, {})):
        about = {"format": f"valley2-{name}", "format_version": "1", **more}
        _write_hollow(directory / f"{name}.safetensors", what, about)


def _write_towers(directory: Path, config: ModelConfig) -> None:
    directory.mkdir()
    weights = Weights(None, lambda: None)  # type: ignore[arg-type]
    projector = {**config.projector.model_dump(), "patches_per_side": config.siglip.patches_per_side}
    assert config.eagle is not None
    for name, plain, parts in (
        ("siglip", config.siglip.model_dump(), siglip_parts(weights, config.siglip, "bf16")),
        ("projector", projector, projector_parts(weights, config.projector, "bf16")),
        ("eagle", config.eagle.model_dump(), eagle_parts(weights, config.eagle, "bf16")),
    ):
        matrices = {matrix.name: matrix.entry() for part in parts for matrix in part.matrices}
        about = {"format": "valley2-tower", "format_version": "1", "tower": name}
        about |= {"config": json.dumps(plain), "matrices": json.dumps(matrices)}
        tensors = {tensor.name: (tensor.dtype, tensor.shape) for part in parts for tensor in part.tensors}
        _write_hollow(directory / f"{name}.safetensors", tensors, about)


def _write_hollow(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], about: dict[str, str]) -> None:
    header: dict[str, object] = {"__metadata__": about}
    end = 0
    for tensor, (dtype, shape) in tensors.items():
        begin, end = end, end + prod(shape) * BYTES[dtype]
        header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)  # a hole: no disk
