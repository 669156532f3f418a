"""Arrays from a stranger's safetensors file, read whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from valley2_edge.outside_files import ErrorType

MAX_TENSORS_BYTES = 2 << 30


def load_tensors(content: bytes, path: Path, error: ErrorType) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a safetensors file by their names.

    Args:
        content: The whole content of the file.
        path: The file, for messages.
        error: Class of the error to raise.

    Raises:
        Valley2Error: It is damaged, or has a type that numpy lacks.
    """
    try:
        tensors: dict[str, npt.NDArray[Any]] = load(content)
    # safetensors raises what its parts raise: KeyError and TypeError for a type that numpy lacks.
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as reason:
        raise error(f"{path} is no readable safetensors file: {str(reason).splitlines()[0]}") from reason
    if any(array.dtype.kind not in "fiub" or not np.isfinite(array).all() for array in tensors.values()):
        raise error(f"{path} holds something else than finite numbers")
    return tensors
