"""What the decoder in ONNX Runtime takes of memory, as plans and budgets count it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from valley2_edge.bundle import FileEntry, open_bundle
from valley2_edge.errors import InputError
from valley2_edge.precisions import OnnxArithmetic
from valley2_edge.runtime.core.backend import BackendCost
from valley2_edge.runtime.core.memory import MemorySettings
from valley2_edge.runtime.decoder_choice import place, with_layers
from valley2_edge.runtime.memory_budget import MemoryBudget
from valley2_edge.runtime.onnx.decoder_cost import OnnxDecoderCost
from valley2_edge.runtime.planning import plan_bundle

pytestmark = pytest.mark.slow


def test_plan_counts_the_graphs(onnx_bundle: Path, int4_bundle: Path) -> None:
    bundle, native = open_bundle(onnx_bundle), open_bundle(int4_bundle)
    settings = MemorySettings(context_length=4096)
    plan, other = (plan_bundle(one, [(640, 480)], settings, process_bytes=0) for one in (bundle, native))
    assert plan.decoder_bytes >= bundle.manifest.files["decoder/decoder.onnx.data"].size
    assert plan.kv_bytes == 2 * other.kv_bytes  # fp32 instead of fp16
    assert plan.siglip_bytes == other.siglip_bytes and plan.eagle_phase_bytes > plan.decoder_bytes
    with pytest.raises(InputError, match="ONNX Runtime keeps keys and values in a precision of its own"):
        plan_bundle(bundle, [], MemorySettings(kv_precision="int8"))


def test_plan_on_a_gpu_is_all_of_it_in_half_precision(onnx_bundle: Path) -> None:
    bundle = open_bundle(onnx_bundle)
    wanted = MemorySettings(context_length=4096, gpu_memory=10**10)
    placed = with_layers(bundle, *place(bundle, wanted, "cuda", elsewhere=True))
    plan = plan_bundle(bundle, [], placed, process_bytes=0)
    config = bundle.manifest.architecture.decoder
    assert plan.gpu_layers == config.num_hidden_layers
    assert plan.gpu_weight_bytes == bundle.manifest.files["decoder/decoder.onnx.data"].size
    assert plan.gpu_kv_bytes == 2 * 2 * config.num_key_value_heads * config.head_size * 4096 * 2  # fp16
    assert (plan.decoder_bytes, plan.kv_bytes) == (0, 0)
    on_cpu = plan_bundle(bundle, [], replace(wanted, device="cpu"), process_bytes=0)
    assert on_cpu.gpu_bytes == 0 and on_cpu.decoder_bytes > plan.gpu_weight_bytes


@pytest.mark.parametrize(
    ("arithmetic", "on_gpu", "expected"),
    [
        # Keys and values of 2 layers with 2 kv heads of 32: 1 KiB a position in fp32. Rows: 3328 floats and 8 scores
        # for each position, half as much again, and 256 floats that come out; half of the keys and values twice.
        ("int8", False, BackendCost(1250, 4_349_952 + 512_000 + 65_536, 1_024_000)),
        # And the output matrix, (679, 256), dequantised.
        ("fp32", False, BackendCost(1250, 4_349_952 + 512_000 + 65_536 + 695_296, 1_024_000)),
        ("fp16", True, BackendCost(0, 65_536, 0, 1000, 4_349_952 + 256_000, 512_000)),
    ],
)
def test_cost_counts_rows_scores_and_the_last_growth(
    onnx_bundle: Path, arithmetic: OnnxArithmetic, on_gpu: bool, expected: BackendCost
) -> None:
    bundle = open_bundle(onnx_bundle)
    files = {**bundle.manifest.files, "decoder/decoder.onnx.data": FileEntry(size=1000, sha256="0" * 64)}
    small = replace(bundle, manifest=bundle.manifest.model_copy(update={"files": files}))
    assert OnnxDecoderCost(small, arithmetic, on_gpu).cost("decoder", 64, 1000) == expected


def test_budget_gives_up_context_and_not_the_precision_of_keys(onnx_bundle: Path) -> None:
    budget = MemoryBudget(open_bundle(onnx_bundle), 1)
    whole = budget.process_bytes + 300 * (1 << 20)
    budget.limit_bytes = whole
    choice = budget.choose(MemorySettings())
    assert choice.plan.peak_bytes <= whole and choice.settings.kv_precision == "auto"
    assert choice.settings.context_length < 32768
