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
from valley2_edge.config import DecoderConfig, EagleConfig, ModelConfig, PictureConfig, ProjectorConfig, SiglipConfig
from valley2_edge.export.checkpoint.tensor_names import eagle_tensors, projector_tensors, siglip_tensors

NORMS = ("input_norm", "post_attention_norm")
BYTES = {"U8": 1, "F16": 2, "BF16": 2, "F32": 4}
CANVASES = tuple((384 * width, 384 * height) for width in (1, 2, 3) for height in (1, 2, 3))


def write_released_size(directory: Path) -> Bundle:
    """The default export: int4 with zero points in groups of 128, the head in int8, vision in fp16."""
    (directory / "decoder").mkdir(parents=True)
    config = ModelConfig(picture=PictureConfig(canvases=CANVASES))
    _write_decoder(directory / "decoder", config.decoder)
    shapes = {
        "siglip": siglip_tensors(SiglipConfig()),
        "projector": projector_tensors(ProjectorConfig()),
        "eagle": eagle_tensors(EagleConfig()),
    }
    files = {"decoder/decoder.safetensors": 0, "decoder/embeddings.safetensors": 0, TOKENIZER_FILE: 4 << 20}
    components = {}
    for name, tensors in shapes.items():
        path = f"vision/{name}.onnx"
        files[path] = sum(prod(shape) for shape in tensors.values()) * BYTES["F16"]
        components[name] = VisionComponent(precision="fp16", files=[path], relative_error=0.0)
    for path in files:
        if path.startswith("decoder/"):
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
        header: dict[str, object] = {"__metadata__": about}
        end = 0
        for tensor, (dtype, shape) in what.items():
            begin, end = end, end + prod(shape) * BYTES[dtype]
            header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        text += b" " * (-(len(text) + 8) % 64)
        with (directory / f"{name}.safetensors").open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + end)  # a hole: no disk
