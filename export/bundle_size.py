"""How much disk a bundle will take, before it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping

from valley2_edge.config import ProjectorConfig
from valley2_edge.export.bundle.safetensors_stream import dtype_name, file_size
from valley2_edge.export.bundle.tokenizer_files import tokenizer_files
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.checkpoint.tensor_names import (
    EMBEDDINGS,
    PROJECTOR_PREFIX,
    Shape,
    eagle_tensors,
    projector_tensors,
    siglip_tensors,
)
from valley2_edge.export.decoder.formats import DecoderFormats
from valley2_edge.export.decoder.layout import decoder_metadata, decoder_plan, embeddings_metadata, embeddings_plan
from valley2_edge.export.selftest.writer import LOGIT_ROWS
from valley2_edge.export.vision.native_file import precision_beside_int8
from valley2_edge.precisions import VisionPrecision

_TOWER_BYTES = 1 << 20
"""Upper bound of what a native tower or its graph has besides its matrices, in bytes."""
_ITEM_BYTES: dict[VisionPrecision, int] = {"fp32": 4, "bf16": 2, "int8": 1}
_SELFTEST_ROWS = 150
"""Upper bound of the rows of features and tokens in the self-test."""


def bundle_size(
    checkpoint: Checkpoint, vision_precision: VisionPrecision, formats: DecoderFormats, *, graphs: bool
) -> int:
    """Size of the bundle in bytes: exact for the decoder, an upper bound for the vision components.

    Args:
        checkpoint: The checkpoint that becomes the bundle.
        vision_precision: Precision of the stored vision weights.
        formats: How the decoder's matrices are stored.
        graphs: Whether the bundle has graphs of its towers, which have the same weights once more.

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
    vision = sum(_weight_bytes(shapes, item_bytes) + _TOWER_BYTES for shapes in towers)
    vision += _projector_bytes(config.projector, vision_precision) + _TOWER_BYTES
    if graphs:
        vision *= 2
    tokenizer = sum(path.stat().st_size for path in tokenizer_files(checkpoint.path))
    width = config.siglip.hidden_size + 2 * config.decoder.hidden_size
    selftest = 4 * (LOGIT_ROWS * config.decoder.vocab_size + _SELFTEST_ROWS * width)
    return decoder + embeddings + vision + tokenizer + selftest


def _projector_bytes(config: ProjectorConfig, vision_precision: VisionPrecision) -> int:
    item_bytes = _ITEM_BYTES[precision_beside_int8(vision_precision)]
    shapes = projector_tensors(config)
    size = _weight_bytes(shapes, item_bytes)
    if (config.type, config.tokenize_function) == ("ovis_conv_adapter", "st_argmax"):
        # The matrices in front of a choice are fp32 in every bundle.
        scores = {name: shapes[PROJECTOR_PREFIX + name] for name in ("conv.weight", "mlp.0.weight")}
        size += _weight_bytes(scores, _ITEM_BYTES["fp32"] - item_bytes)
    return size


def _weight_bytes(shapes: Mapping[str, Shape], item_bytes: int) -> int:
    return item_bytes * sum(math.prod(shape) for shape in shapes.values())
