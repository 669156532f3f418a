"""What a vision component takes in TensorRT (docs/gpu.md)."""

from __future__ import annotations

from valley2_edge.bundle import Bundle
from valley2_edge.runtime.core.backend import BackendComponent, BackendCost
from valley2_edge.runtime.onnx.vision_cost import input_bytes, run_bytes, weight_bytes

_LAYER_BYTES = 3 << 20
"""What the engines that TensorRT-RTX 1.7 builds are larger than their weights in fp16, for each layer: 2.6 to 2.9 MB
were measured of Eagle's, 0.5 MB of SigLIP's."""

_LIBRARY_BYTES = 128 << 20
"""What TensorRT has on the device for itself, its kernels and tables: assumed."""


def vision_cost(bundle: Bundle, component: BackendComponent, count: int) -> BackendCost:
    """What a component takes.

    TensorRT holds matrices in fp16, and activations that are counted as fp32 although most are not. While an engine is
    loaded, its file is in the process's memory.

    Args:
        bundle: Whose component it is.
        component: siglip, projector or eagle.
        count: Most tiles, features or patches of a run.
    """
    architecture = bundle.manifest.architecture
    eagle = architecture.eagle
    depth = 0 if eagle is None else eagle.depth
    layers = {"siglip": architecture.siglip.num_hidden_layers, "projector": 1, "eagle": depth}
    weights = weight_bytes(bundle, component) // 2 + layers[component] * _LAYER_BYTES
    work = run_bytes(architecture, component, count) + input_bytes(architecture, component, count)
    return BackendCost(
        work_bytes=weights, gpu_weight_bytes=weights, gpu_work_bytes=work, gpu_library_bytes=_LIBRARY_BYTES
    )
