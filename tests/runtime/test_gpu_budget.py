"""What a GPU holds of the released size, phase by phase, and what is given up when it is small. 1 GB is 10^9 bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_cuda_driver import FATBIN, FakeGpu, build_driver
from released_size import write_released_size

from valley2_edge.bundle import Bundle, open_bundle
from valley2_edge.errors import BudgetError, InputError
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.memory import ANY_PICTURE, MemoryPlan, MemorySettings, plan_memory
from valley2_edge.runtime.decoder_choice import place, settings_for_gpu, with_layers
from valley2_edge.runtime.gpu_budget import GpuChoice, fit_gpu
from valley2_edge.runtime.planning import plan_bundle

GB = 10**9
PICTURE = (1280, 720)
BOTH = MemorySettings(context_length=4096, device="cuda", vision_engine="tensorrt", gpu_memory=100 * GB)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_released_size(tmp_path_factory.mktemp("released") / "bundle")


def plan(bundle: Bundle, settings: MemorySettings = BOTH, conversation: bool = False) -> MemoryPlan:
    return plan_bundle(bundle, [PICTURE], settings, process_bytes=0, conversation=conversation)


def fit(bundle: Bundle, memory: float, conversation: bool = False, **changes: Any) -> GpuChoice:
    wanted = replace(BOTH, gpu_memory=int(memory), **changes)
    return fit_gpu(bundle, wanted, [PICTURE], conversation=conversation, process_bytes=0)


@pytest.mark.parametrize("conversation", [False, True])
def test_released_size_stays_whole_under_8_gb(bundle: Bundle, conversation: bool) -> None:
    choice = fit(bundle, 8 * GB, conversation)
    assert choice.settings.keep_vision and not choice.settings.offload_weights and choice.text == "everything stays"
    assert choice.plan.gpu_layers == 28 and 7 * GB < choice.plan.gpu_bytes < 8 * GB


@pytest.mark.parametrize("conversation", [False, True])
def test_released_size_goes_in_phases_under_6_5_gb(bundle: Bundle, conversation: bool) -> None:
    choice = fit(bundle, 6.5 * GB, conversation)
    assert not choice.settings.keep_vision and not choice.settings.offload_weights
    assert choice.plan.gpu_layers == 28 and choice.plan.gpu_bytes < 6.5 * GB
    assert choice.plan.kv_bytes == 0 and choice.plan.siglip_bytes == choice.plan.eagle_bytes == 0


def test_decoder_leaves_only_where_the_plan_needs_it(bundle: Bundle) -> None:
    choice = fit(bundle, 5.5 * GB)
    assert choice.settings.offload_weights and "the decoder leaves while pictures are encoded" in choice.text
    assert choice.plan.gpu_layers == 28 and choice.plan.gpu_bytes == choice.plan.gpu_answer_phase_bytes
    assert choice.plan.gpu_eagle_phase_bytes < choice.plan.gpu_weight_bytes


def test_layers_go_to_the_cpu_where_nothing_else_helps(bundle: Bundle) -> None:
    counts = []
    for memory in (4 * GB, 3 * GB, 2.5 * GB):
        choice = fit(bundle, memory)
        assert choice.plan.gpu_bytes <= memory and f"{choice.plan.gpu_layers} of 28 layers" in choice.text
        counts.append(choice.plan.gpu_layers)
    assert 28 > counts[0] > counts[1] > counts[2] > 0
    assert choice.plan.decoder_bytes > 2 * GB and choice.plan.kv_bytes > 0


def test_refusal_says_what_would_fit(bundle: Bundle) -> None:
    with pytest.raises(BudgetError, match=r"do not suffice: the least .* and a layer .*; (\d+)MiB would fit") as found:
        fit(bundle, GB)
    enough = int(str(found.value).split("; ")[1].split("MiB")[0]) << 20
    assert fit(bundle, enough).plan.gpu_layers >= 1
    with pytest.raises(BudgetError, match="pictures need"):
        fit(bundle, 8 * GB, context_length=256)


def test_parts_make_the_phases(bundle: Bundle) -> None:
    phases = plan(bundle)
    decoder = phases.gpu_weight_bytes + phases.gpu_context_bytes
    session = phases.gpu_kv_bytes + phases.gpu_scratch_bytes
    tiles = phases.gpu_siglip_bytes + phases.gpu_projector_bytes + phases.gpu_siglip_work_bytes
    eagle = phases.gpu_eagle_bytes + phases.gpu_eagle_work_bytes
    assert phases.gpu_tiles_phase_bytes == decoder + tiles
    assert phases.gpu_eagle_phase_bytes == decoder + eagle
    assert phases.gpu_answer_phase_bytes == decoder + session
    later = plan(bundle, conversation=True)
    assert later.gpu_eagle_phase_bytes == phases.gpu_eagle_phase_bytes + session
    stays = plan(bundle, replace(BOTH, keep_vision=True))
    assert stays.gpu_bytes == stays.gpu_answer_phase_bytes == decoder + session + tiles + eagle
    leaves = plan(bundle, replace(BOTH, offload_weights=True))
    assert leaves.gpu_tiles_phase_bytes == phases.gpu_context_bytes + tiles
    assert {one.gpu_memory_bytes for one in (phases, later, stays, leaves)} == {100 * GB}


def test_weights_are_those_of_the_files_in_fp16(bundle: Bundle) -> None:
    found = plan(bundle)
    for name, layers in (("siglip", 27), ("projector", 1), ("eagle", 32)):
        size = bundle.manifest.files[f"vision/{name}.safetensors"].size
        assert getattr(found, f"gpu_{name}_bytes") == size + layers * (3 << 20)  # and what TensorRT adds
    assert found.siglip_work_bytes == found.gpu_siglip_bytes  # in the process's memory while it is loaded
    assert found.eagle_work_bytes == found.gpu_eagle_bytes


def test_vision_alone_on_the_gpu(bundle: Bundle) -> None:
    choice = fit(bundle, 4 * GB, device="cpu")
    assert choice.plan.gpu_layers == 0 and choice.settings.keep_vision and choice.plan.kv_bytes > 0
    assert fit(bundle, 2.5 * GB, device="cpu").text == "vision engines are freed after use"
    with pytest.raises(BudgetError, match="the least that the vision engines need"):
        fit(bundle, GB, device="cpu")


def test_without_vision_the_layers_that_fit(bundle: Bundle) -> None:
    whole = plan(bundle, replace(BOTH, vision_engine="native", gpu_memory=int(6.5 * GB)))
    assert whole.gpu_layers == 28 and 3.9 * GB < whole.gpu_weight_bytes < whole.gpu_bytes < 6.5 * GB
    part = plan(bundle, replace(BOTH, vision_engine="native", gpu_memory=int(3.5 * GB)))
    assert 5 < part.gpu_layers < 28 and part.gpu_bytes < 3.5 * GB
    assert part.siglip_bytes > 0 == part.gpu_siglip_bytes


def test_auto_leaves_the_decoder_with_the_cpu_before_it_refuses(bundle: Bundle) -> None:
    wide = {"context_length": 32768, "kv_precision": "fp32", "prefill_chunk": 8192}  # no room for it beside one layer
    memory = plan(bundle, replace(BOTH, device="cpu")).gpu_bytes
    choice = fit(bundle, memory, device="auto", **wide)
    assert choice.plan.gpu_layers == 0 and choice.plan.gpu_eagle_bytes > 0 and choice.plan.gpu_bytes <= memory
    with pytest.raises(BudgetError, match="and a layer of the decoder"):
        fit(bundle, memory, **wide)
    alone = replace(BOTH, device="cpu")
    memory = plan_bundle(bundle, [ANY_PICTURE], alone, process_bytes=0, conversation=True).gpu_bytes
    wanted = replace(alone, device="auto", gpu_memory=memory, kv_precision="fp32", prefill_chunk=8192)
    settings, found = settings_for_gpu(bundle, wanted)
    assert found is not None and found.text.startswith("the decoder on the CPU")
    assert (settings.gpu_layers, settings.gpu_memory) == (0, 1)  # no room: the loader says so


def test_where_there_is_no_gpu(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VALLEY2_CUDA_DRIVER", str(tmp_path / "none"))
    choice = fit(bundle, 0, device="auto")
    assert choice.text == "" and choice.plan.gpu_layers == 0 and choice.plan.gpu_memory_bytes == 0
    with pytest.raises(InputError, match="no GPU to plan for"):
        fit(bundle, 0)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    (tmp_path / "valley2.fatbin").write_bytes(FATBIN)
    monkeypatch.setenv("VALLEY2_CUDA_DRIVER", str(build_driver()))
    monkeypatch.setenv("VALLEY2_CUDA_KERNELS", str(tmp_path))
    return FakeGpu(monkeypatch, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(("layers", "spare"), [(1, -1), (1, 0), (2, -1), (2, 0), (2, 1 << 40)])
def test_plan_puts_layers_where_loading_puts_them(
    int4_bundle: Path, gpu: FakeGpu, layers: int, spare: int, given: bool
) -> None:
    """Holds for auto with so much memory free, or given of more that is free, and for any context that is planned."""
    opened = open_bundle(int4_bundle)
    loading = MemorySettings(context_length=4096, device="cuda", gpu_layers=layers, gpu_memory=1 << 40)
    memory = plan_memory(opened, (), loading).gpu_bytes + spare
    gpu.set(memory=1 << 41 if given else memory)
    limit = memory if given else 0
    wanted = MemorySettings(context_length=32768, kv_precision="fp32", prefill_chunk=8192, gpu_memory=limit)
    placed, choice = place(opened, wanted, "auto")
    planned = plan_memory(opened, (), with_layers(opened, placed, choice))
    with Decoder(int4_bundle / "decoder", threads=1, device="auto", gpu_memory=limit) as decoder:
        assert planned.gpu_layers == decoder.description.gpu_layers == (layers if spare >= 0 else layers - 1)
