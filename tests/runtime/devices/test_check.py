"""A device is believed after it computed what the CPU computes, and refused in a sentence otherwise."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from valley2_edge.bundle import open_bundle
from valley2_edge.errors import EngineError, InputError, NumericError, Valley2Warning
from valley2_edge.options import LoadOptions
from valley2_edge.runtime import decoder_choice
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.decoder_session import DecoderSession
from valley2_edge.runtime.core.memory import MemorySettings
from valley2_edge.runtime.decoder_choice import open_decoder
from valley2_edge.runtime.devices import check as device_check
from valley2_edge.runtime.devices.checked import FILE_NAME, DeviceEngine, require_right
from valley2_edge.runtime.vision.encoder import VisionEncoder

CPU, OTHER = "CPUExecutionProvider", "OtherExecutionProvider"
ENGINE = DeviceEngine("eagle", "digest", "TensorRT", "11.4.0", "GeForce", "580.1")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VALLEY2_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


class Comparison:
    """A distance that is computed, and how often."""

    def __init__(self, distance: float | Exception) -> None:
        self.distance, self.calls = distance, 0

    def __call__(self) -> float:
        self.calls += 1
        if isinstance(self.distance, Exception):
            raise self.distance
        return self.distance


def test_what_was_right_is_compared_once() -> None:
    compare = Comparison(9e-3)
    for _ in range(3):
        require_right(ENGINE, 1e-2, compare)
    assert compare.calls == 1


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "siglip"},
        {"content": "other digest"},
        {"computed_by": "TensorRT-RTX"},
        {"version": "11.5.0"},
        {"device": "Quadro"},
        {"driver": "580.2"},
    ],
)
def test_whatever_may_change_the_result_is_compared_again(change: dict[str, str]) -> None:
    compare = Comparison(1e-3)
    require_right(ENGINE, 1e-2, compare)
    require_right(replace(ENGINE, **change), 1e-2, compare)
    assert compare.calls == 2


def test_other_bound_is_compared_again() -> None:
    require_right(ENGINE, 1e-2, Comparison(1e-3))
    with pytest.raises(EngineError, match=r"differ by 1\.0e-03, and 1e-04 is allowed"):
        require_right(ENGINE, 1e-4, Comparison(1e-3))


def test_driver_that_nobody_knows_is_compared_each_time(data: Path) -> None:
    compare = Comparison(0.0)
    for _ in range(2):
        require_right(replace(ENGINE, driver=""), 1e-2, compare)
    assert compare.calls == 2 and not (data / FILE_NAME).exists()


@pytest.mark.parametrize("found", [0.0101, math.inf, math.nan])
def test_what_is_wrong_is_refused_and_not_remembered(data: Path, found: float) -> None:
    compare = Comparison(found)
    for _ in range(2):
        with pytest.raises(EngineError, match="TensorRT on GeForce computes another eagle than the CPU"):
            require_right(ENGINE, 1e-2, compare)
    assert compare.calls == 2 and not (data / FILE_NAME).exists()


def test_nan_of_a_device_is_refused_in_the_same_way() -> None:
    with pytest.raises(EngineError, match=r"TensorRT on GeForce does not compute.*computed a NaN"):
        require_right(ENGINE, 1e-2, Comparison(NumericError("The eagle engine computed a NaN.")))


def _nested(path: Path) -> None:
    path.write_text("[" * 100_000)


def _large(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # a hole: a terabyte that takes no disk


def _linked(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    (path.parent / "elsewhere").write_bytes(content)
    path.symlink_to(path.parent / "elsewhere")


def _other(content: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(json.dumps(content))

    return write


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"\xff\x00{"),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: path.chmod(0o666),
        _nested,
        _large,
        _linked,
        _other([]),
        _other({"version": 1, "checked": {"a": 1}}),
        _other({"version": 1, "checked": [1, None, [], {}]}),
        _other({"version": 2, "checked": []}),
    ],
    ids=[
        "gone",
        "bytes",
        "directory",
        "pipe",
        "writable",
        "nested",
        "large",
        "link",
        "list",
        "map",
        "items",
        "version",
    ],
)
def test_broken_or_foreign_memory_is_none(data: Path, harm: Callable[[Path], object]) -> None:
    compare = Comparison(0.0)
    require_right(ENGINE, 1e-2, compare)
    harm(data / FILE_NAME)
    require_right(ENGINE, 1e-2, compare)
    assert compare.calls == 2


def test_memory_of_another_user_is_none(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Comparison(0.0)
    require_right(ENGINE, 1e-2, compare)
    monkeypatch.setattr(os, "geteuid", lambda: data.stat().st_uid + 1000)
    if data.stat().st_uid == 0:
        os.chown(data / FILE_NAME, 4000, -1)
    require_right(ENGINE, 1e-2, compare)
    assert compare.calls == 2


def provider_that_computes(monkeypatch: pytest.MonkeyPatch, factor: float) -> list[str]:
    """A provider of this processor under another name, whose results are multiplied; and the graphs that it ran."""
    real = onnxruntime.InferenceSession
    ran: list[str] = []

    class Session(real):  # type: ignore[misc, valid-type]
        def __init__(self, path: str, options: Any, providers: list[tuple[str, Any]], **more: Any) -> None:
            self.first = providers[0][0]
            self.name = Path(path).stem
            super().__init__(path, options, providers=[CPU])

        def get_providers(self) -> list[str]:
            return [self.first, CPU]

        def run(self, names: Any, inputs: Any, options: Any = None) -> Any:
            found = super().run(names, inputs, options)
            if self.first != OTHER:
                return found
            ran.append(self.name)
            return [found[0] * np.float32(factor), *found[1:]]

        def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
            super().run_with_iobinding(binding, options)
            if self.first == OTHER and self.name.startswith("lm_head"):
                ran.append(self.name)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [OTHER, CPU])
    monkeypatch.setattr(device_check, "provider_device", lambda provider: ("a test's GPU", "1.0"))
    return ran


def project(bundle: Path, providers: list[str] | None) -> tuple[np.ndarray, list[str]]:
    encoder = VisionEncoder(open_bundle(bundle), threads=1, engine="onnx", providers=providers)
    features = np.random.default_rng(3).standard_normal((1, 729, 144), np.float32)
    return encoder.project(features), encoder.providers["projector"]


def test_vision_provider_that_is_right_is_compared_once(graph_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = provider_that_computes(monkeypatch, 1.00001)
    for _ in range(2):
        assert project(graph_bundle, [OTHER])[1] == [OTHER, CPU]
    assert ran == ["projector"] * 3  # the comparison and the two questions
    monkeypatch.setattr(device_check, "provider_device", lambda provider: ("a test's GPU", "2.0"))
    project(graph_bundle, [OTHER])
    assert ran == ["projector"] * 5


def test_vision_provider_that_is_wrong_is_refused_where_it_was_named(
    graph_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider_that_computes(monkeypatch, 1.001)
    with pytest.raises(InputError, match=f"{OTHER} on a test's GPU computes another projector than the CPU"):
        project(graph_bundle, [OTHER])


def test_vision_provider_that_is_wrong_is_left_where_nobody_named_it(
    graph_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = project(graph_bundle, [CPU])[0]
    provider_that_computes(monkeypatch, 1.001)
    with pytest.warns(Valley2Warning, match=f"runs in the core instead of ONNX Runtime: {OTHER} on a test's GPU"):
        found, providers = project(graph_bundle, None)
    assert providers[0].startswith("native ")
    assert np.linalg.norm(found - expected) < 1e-2 * np.linalg.norm(expected)


def test_provider_that_does_not_start_is_left_without_a_word_on_stdout(
    graph_bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime's own fallback prints among the answer what it did."""
    real = onnxruntime.InferenceSession

    class Session(real):  # type: ignore[misc, valid-type]
        def _create_inference_session(self, providers: Any, *words: Any) -> None:
            if OTHER in str(providers):
                raise RuntimeError("No supported adapters")
            super()._create_inference_session(providers, *words)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [OTHER, CPU])
    with pytest.warns(Valley2Warning, match=f"projector engine runs on {CPU}: {OTHER} could not be used"):
        assert project(graph_bundle, None)[1] == [CPU]
    assert capfd.readouterr().out == ""


def gpu_that_computes(
    monkeypatch: pytest.MonkeyPatch, factor: float, first_wrong_step: int = 0, layers: int = 0
) -> list[str]:
    """The native decoder on a GPU that is this processor; from a step on its logits are multiplied."""
    opened: list[str] = []

    class Gpu(Decoder):
        def __init__(self, directory: Path, options: LoadOptions, **others: Any) -> None:
            opened.append(f"{options.device} {options.activations}")
            self.on_gpu = options.device != "cpu"
            # A GPU takes activations as exactly as the CPU's int16, but for the layers that it leaves to the CPU.
            exact = self.on_gpu and layers == 0
            changes = {"device": "cpu", "activations": "int16" if exact else options.activations}
            super().__init__(directory, options, **changes, **others)
            if self.on_gpu:
                self.description = replace(
                    self.description,
                    device="cuda",
                    device_name="a test's GPU",
                    gpu_layers=layers or self.description.layers,
                )

        def session(self, *words: Any, **options: Any) -> DecoderSession:
            session = super().session(*words, **options)
            logits, asked = session.logits, [0]

            def wrong(rows: int = 1) -> np.ndarray:
                asked[0] += 1
                found = logits(rows)
                return found * np.float32(factor) if asked[0] > first_wrong_step else found

            if self.on_gpu:
                session.logits = wrong  # type: ignore[method-assign]
            return session

    monkeypatch.setattr(decoder_choice, "Decoder", Gpu)
    monkeypatch.setattr(decoder_choice, "nvidia_gpu", lambda: ("a test's GPU", "580.1"))
    return opened


def native(bundle: Path, device: str) -> Any:
    return open_decoder(open_bundle(bundle), MemorySettings(device=device, threads=1), device)


def test_decoder_on_a_gpu_that_is_right_is_compared_once(int4_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = gpu_that_computes(monkeypatch, 1.001)
    for _ in range(2):
        native(int4_bundle, "cuda").close()
    assert opened == ["cuda auto", "cpu int16", "cuda auto"]


def test_layers_that_a_gpu_leaves_to_the_cpu_may_round_as_they_do_there(
    int4_bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = gpu_that_computes(monkeypatch, 1.001, layers=1)
    native(int4_bundle, "cuda").close()
    assert opened == ["cuda auto", "cpu int16", "cpu auto"]
    (data / FILE_NAME).unlink()
    gpu_that_computes(monkeypatch, 1.2, layers=1)
    with pytest.raises(InputError, match=r"the native core with some layers on a test's GPU computes another decoder"):
        native(int4_bundle, "cuda")


@pytest.mark.parametrize("first_wrong_step", [0, 1])
def test_decoder_on_a_gpu_that_is_wrong_is_refused_or_left(
    int4_bundle: Path, monkeypatch: pytest.MonkeyPatch, first_wrong_step: int
) -> None:
    """Wrong in the prefill, or only in the steps behind it."""
    gpu_that_computes(monkeypatch, 1.02, first_wrong_step)
    with pytest.raises(InputError, match=r"the native core on a test's GPU computes another decoder than the CPU"):
        native(int4_bundle, "cuda")
    with pytest.warns(Valley2Warning, match=r"decoder runs on the CPU: the native core on a test's GPU"):
        decoder = native(int4_bundle, "auto")
    with decoder:
        assert decoder.description.device == "cpu"
        assert "differ by 2.0e-02, and 1e-02 is allowed" in decoder.description.device_reason


def onnx(bundle: Path, providers: list[str] | None) -> Any:
    settings = MemorySettings(threads=1, providers=providers)
    return open_decoder(open_bundle(bundle), settings, None)


@pytest.mark.slow
def test_onnx_decoder_on_a_provider_that_is_right_is_compared_once(
    onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = provider_that_computes(monkeypatch, 1.0)
    counts = []
    for _ in range(2):
        ran.clear()
        with onnx(onnx_bundle, [OTHER]) as decoder:
            assert decoder.backend.provider == OTHER
        counts.append(len(ran))
    assert counts[0] > 0 and counts[1] == 0


@pytest.mark.slow
def test_onnx_decoder_on_a_provider_that_is_wrong_is_refused(
    onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes out of its last product is too large, as a wrong kernel would make it."""
    from valley2_edge.runtime.onnx.decoder_engine import OnnxDecoderEngine

    provider_that_computes(monkeypatch, 1.0)
    head = OnnxDecoderEngine._run_head

    def wrong(self: Any, hidden: Any, logits: Any) -> None:
        head(self, hidden, logits)
        if self._head.get_providers()[0] == OTHER:
            logits *= np.float32(1.05)

    monkeypatch.setattr(OnnxDecoderEngine, "_run_head", wrong)
    with pytest.raises(InputError, match=f"{OTHER} on a test's GPU computes another decoder than the CPU"):
        onnx(onnx_bundle, [OTHER])
