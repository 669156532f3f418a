"""Keys and values of one conversation in buffers that ONNX Runtime reads and writes in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from valley2_edge.runtime.onnx.onnx_runtime import import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

_FIRST_POSITIONS = 256


class OnnxKvCache:
    """Buffers (1, kv_heads, capacity, head_size) for the keys and the values of each layer.

    Args:
        layers: Number of the decoder's layers.
        kv_heads: Number of the decoder's heads of keys and values.
        head_size: Width of a head.
        dtype: float32 or float16.
        most: Positions at most.
        device: "cpu" or "cuda".
    """

    def __init__(self, layers: int, kv_heads: int, head_size: int, dtype: Any, most: int, device: str) -> None:
        self._shape = (1, kv_heads, 0, head_size)
        self._dtype = np.dtype(dtype)
        self._most = most
        self._device = device
        self._names = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
        self._values: dict[str, onnxruntime.OrtValue] = {}
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        """On the processor the buffers are these arrays themselves."""
        self.capacity = 0
        """Positions that there is room for."""

    @property
    def bytes(self) -> int:
        """Bytes of all buffers."""
        return int(len(self._names) * self._shape[1] * self.capacity * self._shape[3] * self._dtype.itemsize)

    def reserve(self, positions: int, used: int) -> None:
        """Makes room, at least twice as much as before where the context allows it.

        Args:
            positions: Number of positions that are needed.
            used: Number of positions whose content is to be kept.

        Raises:
            MemoryError: The memory does not suffice; the cache is as it was.
        """
        if positions <= self.capacity:
            return
        capacity = min(self._most, max(positions, 2 * self.capacity, _FIRST_POSITIONS))
        grown: dict[str, npt.NDArray[Any]] = {}
        for name in self._names:
            array = np.zeros((*self._shape[:2], capacity, self._shape[3]), self._dtype)
            if used:
                array[:, :, :used] = self._content(name)[:, :, :used]
            if self._device == "cpu":
                grown[name] = array
            else:
                self._values[name] = self._on_device(array)
        if self._device == "cpu":
            self._arrays = grown
            self._values = {name: self._on_device(array) for name, array in grown.items()}
        self.capacity = capacity

    def bind(self, binding: onnxruntime.IOBinding) -> None:
        """Binds every buffer to its input and to its output."""
        for name, value in self._values.items():
            binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            binding.bind_ortvalue_output(f"present.{name}", value)

    def _content(self, name: str) -> npt.NDArray[Any]:
        if self._device == "cpu":
            return self._arrays[name]
        content: npt.NDArray[Any] = self._values[name].numpy()
        return content

    def _on_device(self, array: npt.NDArray[Any]) -> onnxruntime.OrtValue:
        return import_onnxruntime().OrtValue.ortvalue_from_numpy(array, self._device, 0)
