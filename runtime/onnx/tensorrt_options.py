"""What ONNX Runtime's TensorRT provider is told, so that it builds a vision engine once and not for every question."""

from __future__ import annotations

import hashlib

from valley2_edge.bundle import Bundle
from valley2_edge.user_data import own_directory

TENSORRT_PROVIDER = "TensorrtExecutionProvider"

_MOST_TILES = 9
_EAGLE_PATCHES = (4, 2916, 5120)
"""Fewest, of the preset "balanced", and most of the preset "document"; more make the provider build anew."""


def tensorrt_options(bundle: Bundle, name: str) -> dict[str, str]:
    """Options of the provider for one vision engine.

    Engines lie in the user's data directory, in a folder for each graph. ONNX Runtime names them after the GPU's
    compute capability and the versions of TensorRT and itself, and builds anew where none fits.

    Args:
        bundle: Where the graph is.
        name: siglip, projector or eagle.

    Raises:
        OSError: The folder cannot be made, or is another user's.
    """
    component = getattr(bundle.manifest, name)
    digests = [bundle.manifest.files[file].sha256 for file in component.files]
    graph = hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
    folder = own_directory("engines", f"{name}-{graph}")
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }
    for place, suffix in enumerate(("min", "opt", "max")):
        shapes = _shapes(bundle, name, place)
        text = ",".join(f"{entry}:{'x'.join(map(str, shape))}" for entry, shape in shapes.items())
        options[f"trt_profile_{suffix}_shapes"] = text
    return options


def _shapes(bundle: Bundle, name: str, place: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs; place 0 is the smallest, 1 the usual, 2 the largest."""
    siglip, eagle = bundle.manifest.architecture.siglip, bundle.manifest.architecture.eagle
    tiles = (1, 1, _MOST_TILES)[place]
    if name == "siglip":
        return {"tiles": (tiles, 3, siglip.image_size, siglip.image_size)}
    if name == "projector" or eagle is None:
        return {"features": (tiles, siglip.patches_per_side**2, siglip.hidden_size)}
    patches = _EAGLE_PATCHES[place]
    return {"patches": (patches, 3 * eagle.patch_size**2), "positions": (patches, 2)}
