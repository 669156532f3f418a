"""Where drivers of GPUs keep what they compile: in our own data directory instead of the user's home."""

from __future__ import annotations

import contextlib
import os

from valley2_edge.user_data import own_directory

# NVIDIA's CUDA and Vulkan drivers, and Mesa's.
_VARIABLES = ("CUDA_CACHE_PATH", "__GL_SHADER_DISK_CACHE_PATH", "MESA_SHADER_CACHE_DIR")


def keep_driver_caches() -> None:
    """Names the place to drivers that are loaded from now on; a place that the user has named stays."""
    with contextlib.suppress(OSError):  # a driver that cannot keep anything compiles again
        directory = str(own_directory("drivers"))
        for name in _VARIABLES:
            os.environ.setdefault(name, directory)
