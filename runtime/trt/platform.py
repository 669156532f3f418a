"""A GPU and the TensorRT that drives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from valley2_edge.errors import EngineError
from valley2_edge.runtime.devices.cuda_driver import CudaDriver
from valley2_edge.runtime.trt.api import TITLES, Flavour, TensorRt, choose_tensorrt, new_logger


@dataclass(frozen=True)
class Platform:
    """What builds and runs engines on this machine."""

    driver: CudaDriver
    flavour: Flavour
    trt: TensorRt
    logger: Any
    """Keeps TensorRT's last error."""

    @property
    def title(self) -> str:
        """TensorRT with its version, as people say it."""
        return f"{TITLES[self.flavour]} {self.trt.__version__}"

    def close(self) -> None:
        """Gives the GPU's context back; engines must have gone before."""
        self.driver.close()


def open_platform() -> Platform:
    """Finds the GPU, and TensorRT-RTX or TensorRT for it.

    Raises:
        EngineError: One is missing; the text is a part of a sentence.
    """
    driver = CudaDriver()
    try:
        flavour, trt = choose_tensorrt(driver.gpu.capability)
    except EngineError:
        driver.close()
        raise
    return Platform(driver, flavour, trt, new_logger(trt))
