"""How much disk a bundle will take, before it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping

from valley2_edge.export.bundle.safetensors_stream import dtype_name, file_size
from valley2_edge.export.bundle.tokenizer_files import tokenizer_files
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.checkpoint.tensor_names import (
    EMBEDDINGS,
    Shape,
    eagle_tensors,
    projector_tensors,
    siglip_tensors,
)
from valley2_edge.export.decoder.formats import DecoderFormats
from valley2_edge.export.decoder.layout import decoder_metadata, decoder_plan, embeddings_metadata, embeddings_plan
from valley2_edge.export.selftest.writer import LOGIT_ROWS
from valley2_edge.precisions import ProjectorPrecision, VisionPrecision

_GRAPH_BYTES = 1 << 20
"""Of one ONNX graph or tower without its matrices, generously."""
_ITEM_BYTES: dict[VisionPrecision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
_SELFTEST_ROWS = 150
"""Rows of features and tokens in the self-test, generously."""


def bundle_size(
    checkpoint: Checkpoint,
    vision_precision: VisionPrecision,
    projector_precision: ProjectorPrecision | None,
    formats: DecoderFormats,
) -> int:
    """Bytes of the bundle: exact for the decoder, from the shapes of the weights for the vision graphs.

    Args:
        checkpoint: Where the bundle comes from.
        vision_precision: Of the stored vision weights.
        projector_precision: Of the projector's, where they are not as vision_precision says.
        formats: Of the decoder's matrices.

    Raises:
        CheckpointError: A file of the tokenizer is missing.
        ExportError: A matrix does not divide into whole groups.
    """
    config = checkpoint.config
    decoder = file_size(decoder_plan(config.decoder, formats), decoder_metadata(config.decoder, formats))
    dtype = dtype_name(checkpoint.dtype(EMBEDDINGS))
    embeddings = file_size(embeddings_plan(config.decoder, dtype), embeddings_metadata())
    towers = [siglip_tensors(config.siglip)]
    if config.eagle is not None:
        towers.append(eagle_tensors(config.eagle))
    item_bytes = _ITEM_BYTES[vision_precision]
    vision = sum(_weight_bytes(shapes, item_bytes) + _GRAPH_BYTES for shapes in towers)
    if projector_precision is not None:
        item_bytes = _ITEM_BYTES[projector_precision]
    elif vision_precision == "int8":  # the projector is bf16 all the same
        item_bytes = _ITEM_BYTES["bf16"]
    vision += _weight_bytes(projector_tensors(config.projector), item_bytes) + _GRAPH_BYTES
    tokenizer = sum(path.stat().st_size for path in tokenizer_files(checkpoint.path))
    width = config.siglip.hidden_size + 2 * config.decoder.hidden_size
    selftest = 4 * (LOGIT_ROWS * config.decoder.vocab_size + _SELFTEST_ROWS * width)
    return decoder + embeddings + vision + tokenizer + selftest


def _weight_bytes(shapes: Mapping[str, Shape], item_bytes: int) -> int:
    return item_bytes * sum(math.prod(shape) for shape in shapes.values())
