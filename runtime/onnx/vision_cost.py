"""What a vision component takes in ONNX Runtime on the processor (docs/memory.md)."""

from __future__ import annotations

from valley2_edge.bundle import Bundle
from valley2_edge.config import ModelConfig
from valley2_edge.runtime.core.backend import BackendComponent, BackendCost

FLOAT_BYTES = 4
POSITION_BYTES = 16
"""Row and column of a patch, int64."""
_ARENA_PERCENT = 150
"""ONNX Runtime's arena takes more than what is in use at once: it grows by steps and cannot move anything."""
_SIGLIP_BLOCK = 243
"""Queries that a block of attention holds scores for: export/vision/onnx_siglip.py."""
_EAGLE_BLOCK = 128
"""The same in export/vision/onnx_eagle.py."""
_STORED_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
"""Bytes of most of a tower's numbers, by its precision."""


def vision_cost(bundle: Bundle, component: BackendComponent, count: int) -> BackendCost:
    """What a component takes.

    Args:
        bundle: Whose component it is.
        component: siglip, projector or eagle.
        count: Most tiles, features or patches of a run.
    """
    architecture = bundle.manifest.architecture
    stored = _STORED_BYTES[getattr(bundle.manifest, component).precision]
    run = run_bytes(architecture, component, count) * _ARENA_PERCENT // 100
    # The core's inputs are copied: a cancelled run goes on with them.
    copies = input_bytes(architecture, component, count)
    # Reading a graph makes both forms of its largest tensor before the first is freed.
    loading = 0 if stored == FLOAT_BYTES else _largest_tensor(architecture, component) * (stored + FLOAT_BYTES)
    return BackendCost(weight_bytes=weight_bytes(bundle, component), work_bytes=max(run + copies, loading))


def weight_bytes(bundle: Bundle, component: BackendComponent) -> int:
    """Bytes of a component's weights in fp32, which ONNX Runtime makes of whatever the graph stores."""
    part = getattr(bundle.manifest, component)
    stored = sum(bundle.manifest.files[file].size for file in part.files)
    return stored * FLOAT_BYTES // _STORED_BYTES[part.precision]


def run_bytes(architecture: ModelConfig, component: BackendComponent, count: int) -> int:
    """Bytes of the activations of one run that are there at once, in fp32."""
    siglip, projector, eagle = architecture.siglip, architecture.projector, architecture.eagle
    patches = siglip.patches_per_side**2
    if component == "siglip":
        width, heads = siglip.hidden_size, siglip.num_attention_heads
        floats = patches * _layer_floats(width, heads, siglip.intermediate_size, _SIGLIP_BLOCK)
    elif component == "projector":
        soft = projector.type == "ovis_conv_adapter"
        rows = patches if projector.type == "conv_adapter" else projector.tokens_per_side**2
        middle = projector.mlp_hidden_dim if soft else projector.output_size
        floats = 2 * rows * middle + 2 * patches * siglip.hidden_size
    elif eagle is None:
        return 0
    else:
        floats = _layer_floats(eagle.embed_dim, eagle.num_heads, eagle.embed_dim * eagle.mlp_ratio, _EAGLE_BLOCK)
    return count * floats * FLOAT_BYTES


def input_bytes(architecture: ModelConfig, component: BackendComponent, count: int) -> int:
    """Bytes of what goes into a run."""
    siglip, eagle = architecture.siglip, architecture.eagle
    if component == "siglip":
        return count * 3 * siglip.image_size**2 * FLOAT_BYTES
    if component == "projector":
        return count * siglip.patches_per_side**2 * siglip.hidden_size * FLOAT_BYTES
    return 0 if eagle is None else count * (3 * eagle.patch_size**2 * FLOAT_BYTES + POSITION_BYTES)


def _layer_floats(width: int, heads: int, middle: int, block: int) -> int:
    """The floats of one token at the two widest points of a layer.

    Attention holds the residual, queries, keys, values, the result so far, and scores and probabilities of one block;
    the MLP holds the residual and its middle twice.
    """
    return max(5 * width + 2 * heads * block, width + 2 * middle)


def _largest_tensor(architecture: ModelConfig, component: BackendComponent) -> int:
    """Numbers in a component's largest tensor."""
    siglip, projector, eagle = architecture.siglip, architecture.projector, architecture.eagle
    width = siglip.hidden_size
    if component == "siglip":
        return width * max(siglip.intermediate_size, 3 * width)
    if component == "projector":
        soft = projector.type == "ovis_conv_adapter"
        middle = projector.mlp_hidden_dim if soft else projector.output_size
        return max(middle, 9 * width) * max(projector.output_size, width)
    if eagle is None:
        return 0
    joined = eagle.embed_dim * eagle.spatial_merge_size**2
    return joined * max(joined, eagle.hidden_size)
