"""The planner adds up what a backend says of itself, phase by phase."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from valley2_edge.bundle import Bundle, open_bundle
from valley2_edge.errors import BundleError, InputError
from valley2_edge.runtime.core.backend import BackendComponent, BackendCost
from valley2_edge.runtime.core.memory import MemoryPlan, MemorySettings, plan_memory

PHOTO = (640, 480)
SETTINGS = MemorySettings(context_length=4096, prefix_cache_bytes=0, vision_cache_bytes=0)
COST = BackendCost(weight_bytes=10**9, work_bytes=10**6, kv_bytes=10**7)
ON_GPU = BackendCost(5, 10**6, 6, gpu_weight_bytes=10**9, gpu_work_bytes=10**5, gpu_kv_bytes=10**7)


class Costs:
    """A backend that says what it takes, and notes what it was asked."""

    name = "costs"

    def __init__(self, cost: BackendCost) -> None:
        self._cost = cost
        self.asked: list[tuple[str, int, int]] = []

    def open(self, component: BackendComponent) -> Any:
        raise AssertionError("a plan opens nothing")

    def cost(self, component: BackendComponent, count: int, positions: int) -> BackendCost:
        self.asked.append((component, count, positions))
        return self._cost


@pytest.fixture(scope="module")
def bundle(int4_bundle: Path) -> Bundle:
    return open_bundle(int4_bundle, check="sizes")


def plan(
    bundle: Bundle, cost: BackendCost, settings: MemorySettings = SETTINGS, conversation: bool = False
) -> MemoryPlan:
    backend = Costs(cost)
    return plan_memory(bundle, [PHOTO], settings, process_bytes=0, decoder_backend=backend, conversation=conversation)


def test_parts_are_what_the_backend_says(bundle: Bundle) -> None:
    found, nothing = plan(bundle, COST), plan(bundle, BackendCost())
    assert (found.decoder_bytes, found.kv_bytes) == (10**9, 10**7)
    assert found.scratch_bytes == nothing.scratch_bytes + 10**6
    # The core's own: embeddings of a chunk, and the logits of the longest draft and of a prefill, with candidates.
    sizes = bundle.manifest.architecture.decoder
    assert nothing.scratch_bytes == 256 * sizes.hidden_size * 4 + sizes.vocab_size * (17 * 4 + 8)
    assert (found.gpu_layers, found.gpu_bytes) == (0, 0)


def test_phases_add_them(bundle: Bundle) -> None:
    found, nothing = plan(bundle, COST), plan(bundle, BackendCost())
    # Its weights are no pages of a file that would go while pictures are encoded.
    assert found.tiles_phase_bytes - nothing.tiles_phase_bytes == 10**9
    assert found.eagle_phase_bytes - nothing.eagle_phase_bytes == 10**9
    assert found.answer_phase_bytes - nothing.answer_phase_bytes == 10**9 + 10**6 + 10**7
    found, nothing = (plan(bundle, cost, conversation=True) for cost in (COST, BackendCost()))
    assert found.eagle_phase_bytes - nothing.eagle_phase_bytes == 10**9 + 10**6 + 10**7


def test_it_is_asked_for_the_chunk_and_the_context(bundle: Bundle) -> None:
    backend = Costs(COST)
    for settings in (SETTINGS, replace(SETTINGS, prefill_chunk=64), replace(SETTINGS, prefill_chunk=1)):
        plan_memory(bundle, [], settings, process_bytes=0, decoder_backend=backend)
    # A step with the longest draft has 16 positions.
    assert backend.asked == [("decoder", 256, 4096), ("decoder", 64, 4096), ("decoder", 16, 4096)]


def test_gpu_memory_is_in_the_phases_of_the_gpu(bundle: Bundle) -> None:
    settings = replace(SETTINGS, device="cuda", gpu_memory=10**10)
    found = plan(bundle, ON_GPU, settings)
    parts = (found.gpu_weight_bytes, found.gpu_scratch_bytes, found.gpu_kv_bytes)
    assert parts == (10**9, 10**5, 10**7) and (found.decoder_bytes, found.kv_bytes) == (5, 6)
    assert found.gpu_answer_phase_bytes == found.gpu_bytes == found.gpu_context_bytes + sum(parts)
    assert found.gpu_layers == bundle.manifest.architecture.decoder.num_hidden_layers


def test_gpu_memory_counts_without_weights_too(bundle: Bundle) -> None:
    found = plan(bundle, BackendCost(gpu_kv_bytes=10**7), replace(SETTINGS, device="cuda", gpu_memory=10**10))
    assert found.gpu_bytes == found.gpu_context_bytes + 10**7


def test_library_of_a_backend_is_on_the_gpu_beside_the_driver(bundle: Bundle) -> None:
    settings = replace(SETTINGS, device="cuda", gpu_memory=10**10)
    found, without = plan(bundle, replace(ON_GPU, gpu_library_bytes=10**8), settings), plan(bundle, ON_GPU, settings)
    assert found.gpu_context_bytes - without.gpu_context_bytes == 10**8
    assert found.gpu_bytes - without.gpu_bytes == 10**8


def test_weights_of_a_backend_do_not_leave_a_gpu(bundle: Bundle) -> None:
    settings = replace(SETTINGS, device="cuda", gpu_memory=10**10)
    stays, leaves = (plan(bundle, ON_GPU, replace(settings, offload_weights=one)) for one in (False, True))
    assert stays == leaves


def test_sessions_share_no_pages(bundle: Bundle) -> None:
    settings = replace(SETTINGS, prefix_cache_bytes=1 << 30)
    assert plan(bundle, COST, settings, conversation=True).prefix_cache_bytes == 0


def test_sizes_stop_at_the_largest_number(bundle: Bundle) -> None:
    most = 2**64 - 1
    found = plan(bundle, BackendCost(most, most, most), conversation=True)
    assert found.peak_bytes == found.answer_phase_bytes == found.tiles_phase_bytes == most


def test_what_cannot_be_had_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="must be auto: costs keeps keys and values in a precision of its own"):
        plan(bundle, COST, replace(SETTINGS, kv_precision="int8"))
    with pytest.raises(InputError, match="trained for 32768 positions"):
        plan(bundle, COST, replace(SETTINGS, context_length=40_000))


def test_what_the_backend_raises_comes_out(bundle: Bundle) -> None:
    class Broken(Costs):
        def cost(self, component: BackendComponent, count: int, positions: int) -> BackendCost:
            raise BundleError("the graphs are gone")

    with pytest.raises(BundleError, match="the graphs are gone"):
        plan_memory(bundle, [], SETTINGS, decoder_backend=Broken(COST))
