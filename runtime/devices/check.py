"""Compares engines on a device with the CPU, with the input of the bundle's self-test."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from valley2_edge.bundle import Bundle
from valley2_edge.errors import BundleError, EngineError
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.generation import GenerateOptions
from valley2_edge.runtime.core.prompt import PICTURE_ID
from valley2_edge.runtime.core.vision_engine import ComponentName, EngineInputs
from valley2_edge.runtime.devices.checked import DeviceEngine, require_right
from valley2_edge.runtime.devices.comparison import Array, compare_relative
from valley2_edge.runtime.onnx.engine import OnnxEngine
from valley2_edge.runtime.onnx.graph_files import graph_to_open
from valley2_edge.runtime.onnx.onnx_runtime import import_onnxruntime
from valley2_edge.runtime.onnx.providers import CPU_PROVIDER, CUDA_PROVIDER
from valley2_edge.selftest import SELFTEST_FILE, read_self_test

VISION_BOUND = 1e-4
"""Bound for graphs that are computed in float32; what providers that are right were seen to differ by is below 1e-5."""
HALF_BOUND = 1e-2
"""Bound for what TensorRT builds: in fp16, or with factors that are rounded to as many bits."""
DECODER_BOUND = 1e-2
"""Bound for logits, computed in fp16 on a device; attention that was wrong was seen to differ by 4e-2 and more."""
_DECODER_ROWS = 130
"""More than the lanes of any subgroup and than two tiles of a matrix product."""
_DECODER_STEPS = 3
_LOGIT_ROWS = 16
_VULKAN_DRIVERS = ("/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d")


def check_provider(bundle: Bundle, name: ComponentName, engine: OnnxEngine, threads: int) -> None:
    """Refuses an execution provider that computes a vision graph wrong.

    Args:
        bundle: Whose graph it is.
        name: siglip, projector or eagle.
        engine: Loaded.
        threads: Number of threads of the CPU, which computes the graph once.

    Raises:
        EngineError: It differs from the CPU; the text is a part of a sentence.
    """
    provider = engine.providers[0]
    if provider == CPU_PROVIDER:
        return
    key = _on_provider(name, provider, _digest(bundle, getattr(bundle.manifest, name).files))

    def exact(inputs: EngineInputs) -> Array:
        architecture = bundle.manifest.architecture
        with graph_to_open(bundle, name) as path:
            cpu = OnnxEngine(path, name, architecture, threads=threads, providers=[CPU_PROVIDER])
        with contextlib.closing(cpu):
            return cpu.compute(inputs)

    require_right(key, VISION_BOUND, lambda: vision_distance(bundle, name, engine.compute, exact))


def vision_distance(
    bundle: Bundle,
    name: ComponentName,
    run: Callable[[EngineInputs], Array],
    exact: Callable[[EngineInputs], Array] | None = None,
) -> float:
    """How far a device's vision engine is from the CPU, for the self-test's picture.

    Args:
        bundle: Whose component it is.
        name: siglip, projector or eagle.
        run: Computes it on the device.
        exact: Computes it on the CPU; None: the bundle's native tower does.
    """
    from valley2_edge.runtime.devices.samples import native_tower, sample_inputs

    (inputs,) = sample_inputs(bundle, name)
    found = run(inputs)
    expected = native_tower(bundle, name, inputs) if exact is None else exact(inputs)
    return compare_relative("", name, found, expected).error


def check_decoder(
    bundle: Bundle,
    decoder: Decoder,
    open_exact: Callable[[], Decoder],
    open_rounded: Callable[[], Decoder] | None = None,
    *,
    driver: str = "",
    provider: str = "",
) -> None:
    """Refuses a decoder that computes wrong on its device: a prompt, and a few steps behind it.

    Args:
        bundle: Whose decoder it is.
        decoder: Loaded.
        open_exact: Opens the same decoder on the CPU, as exactly as it goes there.
        open_rounded: Opens it on the CPU with the activations of the layers that the device leaves to the CPU: what
            these lose is not the device's fault. None: it has all layers, or they are exact.
        driver: Version of the device's driver, for the native decoder; empty: not known.
        provider: ONNX Runtime's execution provider; empty: the core computes the decoder.

    Raises:
        EngineError: It differs from the CPU; the text is a part of a sentence.
    """
    about = decoder.description
    content = _digest(bundle, bundle.manifest.decoder.files)
    if provider:
        key = _on_provider("decoder", provider, content)
    else:
        whole = about.gpu_layers == about.layers
        way = "the native core" if whole else "the native core with some layers"
        from valley2_edge.runtime.core.library import version

        key = DeviceEngine("decoder", content, way, version(), about.device_name, driver)

    def distance() -> float:
        ids = _prompt_ids(bundle, about.max_context)
        found = _logits(decoder, ids)
        with contextlib.closing(open_exact()) as cpu:
            expected = _logits(cpu, ids)
        if open_rounded is None:
            return _distance(found, expected)
        with contextlib.closing(open_rounded()) as cpu:
            return _distance(found, expected) - _distance(_logits(cpu, ids), expected)

    require_right(key, DECODER_BOUND, distance)


_Answer = tuple[list[Array], list[int]]


def _logits(decoder: Decoder, ids: Array) -> _Answer:
    """Logits of the prompt's last rows and behind each greedy step, and the tokens of these steps."""
    rows, tokens = min(len(ids), _LOGIT_ROWS), list[int]()
    with decoder.session(kv_precision=decoder.finest_kv_precision) as session:
        session.prefill([ids], logit_rows=rows)
        found: list[Array] = [session.logits(rows)]
        for _ in range(_DECODER_STEPS):
            session.generate(GenerateOptions(max_new_tokens=1, speculation="off"), tokens.append)
            found.append(session.logits(1))
    return found, tokens


def _distance(found: _Answer, expected: _Answer) -> float:
    """The largest relative distance of logits, up to the first step that chose another token: no later one compares."""
    steps = zip(found[1], expected[1], strict=True)
    same = next((step for step, (one, other) in enumerate(steps) if one != other), _DECODER_STEPS)
    pairs = list(zip(found[0], expected[0], strict=True))[: same + 1]
    return max(compare_relative("", "logits", one, other).error for one, other in pairs)


def _prompt_ids(bundle: Bundle, most: int) -> Array:
    """The self-test's prompt, from its beginning again until there are enough rows: the picture is left out."""
    ids = [token for token in read_self_test(bundle)[0].input_ids if token != PICTURE_ID]
    if not ids:
        raise BundleError(f"{bundle.path(SELFTEST_FILE)} has no prompt.")
    return np.resize(np.array(ids, np.int32), min(_DECODER_ROWS, most - _DECODER_STEPS - 1))


def _on_provider(name: str, provider: str, content: str) -> DeviceEngine:
    device, driver = provider_device(provider)
    return DeviceEngine(name, content, provider, str(import_onnxruntime().__version__), device, driver)


def provider_device(provider: str) -> tuple[str, str]:
    """What an execution provider of ONNX Runtime computes on, and the version of its driver; empty: not known."""
    if provider == CUDA_PROVIDER:
        return nvidia_gpu()
    if provider == "CoreMLExecutionProvider":
        return platform.machine(), platform.mac_ver()[0]  # its drivers are parts of the system
    if provider == "WebGpuExecutionProvider" and sys.platform == "linux":
        return "a GPU by Vulkan", _vulkan_drivers()
    return "", ""


def nvidia_gpu() -> tuple[str, str]:
    """Name of the first NVIDIA GPU and the version of its driver; both empty where there is none."""
    from valley2_edge.runtime.devices.cuda_driver import CudaDriver

    try:
        driver = CudaDriver()
    except EngineError:
        return "", ""
    driver.close()
    return driver.gpu.name, driver.gpu.driver


def _vulkan_drivers() -> str:
    """What says which Vulkan drivers are installed, in short; it changes when one of them does."""
    found = []
    for folder in map(Path, _VULKAN_DRIVERS):
        for path in sorted(folder.glob("*.json")):
            status = path.stat()
            found.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    named = [f"{name}={os.environ.get(name)}" for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")]
    return hashlib.sha256("\n".join(found + named).encode()).hexdigest()[:16] if found else ""


def _digest(bundle: Bundle, files: Sequence[str]) -> str:
    return hashlib.sha256("".join(bundle.manifest.files[file].sha256 for file in files).encode()).hexdigest()
