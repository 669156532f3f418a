"""The GPU's kernels, run by this processor, compute what the CPU's compute; and what happens without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoder_files import TinyConfig, random_weights, write_decoder
from fake_cuda_driver import FATBIN, FakeGpu, build_driver

from valley2_edge.bundle import open_bundle
from valley2_edge.errors import BudgetError, Cancelled, InputError, NumericError, Valley2Error
from valley2_edge.options import LoadOptions
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.decoder_session import DecoderSession
from valley2_edge.runtime.core.generation import GenerateOptions
from valley2_edge.runtime.core.memory import MemorySettings, plan_memory
from valley2_edge.runtime.core.probe import Probe
from valley2_edge.verify.run import self_test

pytestmark = pytest.mark.slow

CONFIG = TinyConfig()
PRECISIONS = ("fp32", "fp16", "int8", "int4", "int4-asymmetric", "nf4")
PROMPT = np.random.default_rng(7).integers(0, CONFIG.vocab_size, 70).astype(np.int32)
GREEDY = GenerateOptions(max_new_tokens=3, speculation="off")
NO_LAYER = 1 << 20


@pytest.fixture(scope="module")
def driver() -> Path:
    return build_driver()


@pytest.fixture(autouse=True)
def gpu(driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    (tmp_path / "valley2.fatbin").write_bytes(FATBIN)
    monkeypatch.setenv("VALLEY2_CUDA_DRIVER", str(driver))
    monkeypatch.setenv("VALLEY2_CUDA_KERNELS", str(tmp_path))
    return FakeGpu(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Decoder directories by precision."""
    made = {}
    for precision in PRECISIONS:
        made[precision] = tmp_path_factory.mktemp(precision)
        kind, _, asymmetric = precision.partition("-")
        write_decoder(made[precision], CONFIG, random_weights(CONFIG), kind, symmetric=not asymmetric)
    return made


@pytest.fixture
def decoder(bundles: dict[str, Path]) -> Iterator[Decoder]:
    with Decoder(bundles["int4"], threads=1, device="cuda") as opened:
        yield opened


def relative_error(actual: Any, expected: Any) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def answer(session: DecoderSession, options: GenerateOptions = GREEDY) -> list[int]:
    tokens: list[int] = []
    session.generate(options, tokens.append)
    return tokens


def errors_of(directory: Path, kv_precision: str = "auto", chunk: int = 0, **options: Any) -> tuple[float, float]:
    """The error of the logits of a prefill and of the last of some steps, against the CPU with int16 activations."""
    with (
        Decoder(directory, threads=1, activations="int16") as one,
        Decoder(directory, threads=1, activations="int16", device="cuda", **options) as other,
        one.session(kv_precision=kv_precision) as cpu,
        other.session(kv_precision=kv_precision, prefill_chunk=chunk) as gpu,
    ):
        for session in (cpu, gpu):
            session.prefill([PROMPT], logit_rows=20)
        prefill = relative_error(gpu.logits(20), cpu.logits(20))
        assert answer(gpu) == answer(cpu)
        assert gpu.length == cpu.length
        return prefill, relative_error(gpu.logits(), cpu.logits())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_and_tokens_equal_the_cpus(bundles: dict[str, Path], precision: str) -> None:
    prefill, step = errors_of(bundles[precision], kv_precision="fp32")
    exact = precision in ("fp32", "fp16")
    assert prefill < (1e-5 if exact else 2e-3)  # quantised weights meet fp16 rows on tensor cores
    assert step < (1e-5 if exact else 1e-3)


@pytest.mark.parametrize("kv_precision", ["fp16", "int8"])
def test_small_caches_hold_what_the_cpus_hold(bundles: dict[str, Path], kv_precision: str) -> None:
    prefill, step = errors_of(bundles["fp32"], kv_precision)
    assert prefill < 5e-4 and step < 5e-4


@pytest.mark.parametrize("kv_precision", ["fp16", "int8"])
@pytest.mark.parametrize("head_size", [64, 128])
def test_attention_on_tensor_cores_equals_the_cpus(tmp_path: Path, head_size: int, kv_precision: str) -> None:
    config = TinyConfig(
        hidden_size=2 * head_size,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=331,
    )
    write_decoder(tmp_path, config, random_weights(config))
    # The second chunk begins in the middle of a tile of keys, the first ends in the middle of one of rows.
    prefill, step = errors_of(tmp_path, kv_precision, chunk=40)
    assert prefill < 1e-3 and step < 1e-3


def test_pages_are_crossed(bundles: dict[str, Path]) -> None:
    prompt = np.tile(PROMPT, 4)[:262]
    with Decoder(bundles["fp32"], threads=1) as one, Decoder(bundles["fp32"], threads=1, device="cuda") as other:
        rows = []
        for decoder in (one, other):
            with decoder.session(kv_precision="int8") as session:
                session.prefill([prompt[:250]])
                for position in range(250, 262):  # by steps
                    session.prefill([prompt[position : position + 1]])
                rows.append(session.logits()[0])
                answer(session)
                rows.append(session.logits()[0])
                assert session.kv_bytes > 0
        assert relative_error(rows[2], rows[0]) < 5e-4
        assert relative_error(rows[3], rows[1]) < 5e-4


def test_chunks_leave_every_bit(decoder: Decoder) -> None:
    seen = set()
    for chunk in (70, 33, 7):
        with decoder.session(prefill_chunk=chunk) as session:
            session.prefill([PROMPT], logit_rows=40)
            seen.add(session.logits(40).tobytes())
    assert len(seen) == 1


def test_drafts_leave_every_bit(decoder: Decoder) -> None:
    results = []
    for speculation in ("off", "always"):
        with decoder.session() as session:
            session.prefill([np.tile(PROMPT[:10], 4)])
            tokens = answer(session, GenerateOptions(max_new_tokens=8, speculation=speculation))
            results.append((tokens, session.logits().tobytes()))
            assert (session.counters.drafted_tokens > 0) == (speculation == "always")
    assert results[0] == results[1]


@pytest.mark.parametrize("speculation", ["off", "always"])
@pytest.mark.parametrize(
    ("settings", "narrowed"),
    [
        ({"temperature": 1.5, "top_k": 40, "seed": 3, "repetition_penalty": 1.2}, 5),
        ({"temperature": 1.5, "top_k": 40, "seed": 4, "top_p": 0.9, "min_p": 0.01}, 5),
        ({"repetition_penalty": 1.2}, 5),
        ({"temperature": 1.5, "top_p": 0.9, "seed": 3}, 0),
        ({"temperature": 1.5, "top_k": CONFIG.vocab_size, "seed": 3}, 0),
    ],
)
def test_sampling_takes_what_the_cpu_takes(
    bundles: dict[str, Path], gpu: FakeGpu, settings: dict[str, Any], narrowed: int, speculation: str
) -> None:
    options = GenerateOptions(max_new_tokens=5, speculation=speculation, **settings)
    tokens = []
    for device in ("cpu", "cuda"):
        with Decoder(bundles["fp32"], threads=1, device=device) as decoder, decoder.session() as session:
            session.prefill([PROMPT[:20]])
            answer(session)  # greedy first: logits that stayed on the device are asked for later
            gpu.record()
            tokens.append(answer(session, options))
    assert tokens[0] == tokens[1] and len(set(tokens[0])) > 1
    assert gpu.calls().count("launch v2e_narrow_take") == narrowed


def test_a_step_is_recorded_once_and_replayed(decoder: Decoder, gpu: FakeGpu) -> None:
    with decoder.session() as session:
        session.prefill([PROMPT[:20]])
        gpu.record()
        answer(session, GenerateOptions(max_new_tokens=4, speculation="off"))
        calls = gpu.calls()
    assert calls.count("cuGraphLaunch") == 4 and calls.count("cuGraphInstantiateWithFlags") == 1
    launches = [call for call in calls if call.startswith("launch ")]
    assert launches.count("launch v2e_few_int4_1") == 4 * CONFIG.num_hidden_layers + 1


def test_layers_that_do_not_fit_stay_on_the_cpu(bundles: dict[str, Path]) -> None:
    prefill, step = errors_of(bundles["fp32"], kv_precision="int8", chunk=33, gpu_layers=2)
    assert prefill < 5e-4 and step < 5e-4
    with Decoder(bundles["fp32"], threads=1, device="cuda", gpu_layers=2) as decoder, decoder.session() as session:
        assert decoder.description.gpu_layers == 2
        session.prefill([PROMPT])
        pages = CONFIG.num_key_value_heads * CONFIG.head_size * 2 * 256 * 4
        assert session.kv_bytes == CONFIG.num_hidden_layers * pages


def test_memory_of_the_gpu_decides_how_many_layers_it_takes(bundles: dict[str, Path], gpu: FakeGpu) -> None:
    taken = []
    for mebibytes in (404, 405, 406, 420):  # 400 are the context's own
        gpu.set(memory=mebibytes << 20)
        with Decoder(bundles["fp32"], threads=1, device="auto", gpu_context=256) as decoder:
            taken.append(decoder.description.gpu_layers)
    assert taken == sorted(taken) and taken[0] < CONFIG.num_hidden_layers == taken[-1]


def test_cancelled_prefill_leaves_the_session_as_it_was(decoder: Decoder) -> None:
    with decoder.session(prefill_chunk=16) as session:
        session.prefill([PROMPT[:10]])
        before = session.logits()
        with pytest.raises(Cancelled):
            session.prefill([PROMPT], on_progress=lambda done, total: done < 32)
        session.cancel()
        with pytest.raises(Cancelled):
            session.prefill([PROMPT])
        session.resume()
        assert session.length == 10
        np.testing.assert_array_equal(session.logits(), before)


@pytest.mark.parametrize("tensor", ["layers.1.input_norm", "layers.2.post_attention_norm", "norm", "lm_head.weight"])
def test_a_nan_is_named_as_the_cpu_names_it(tmp_path: Path, tensor: str) -> None:
    def damage(tensors: dict[str, Any]) -> None:
        tensors[tensor] = tensors[tensor].copy()
        tensors[tensor].flat[3] = np.nan

    write_decoder(tmp_path, CONFIG, random_weights(CONFIG), damage=damage)
    texts = []
    for device in ("cpu", "cuda"):
        with Decoder(tmp_path, threads=1, device=device) as decoder, decoder.session() as session:
            with pytest.raises(NumericError) as caught:
                session.prefill([PROMPT[:5]])
            texts.append(str(caught.value))
            assert session.length == 0
    assert texts[0] == texts[1]


def test_golden_outputs_come_out_of_the_gpu_as_well(fp32_bundle: Path) -> None:
    rows = list(self_test(open_bundle(fp32_bundle), LoadOptions(threads=1, device="cuda")))
    assert [row for row in rows if row.stage == "logits"]
    assert all(row.passed for row in rows)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"devices": 0}, "finds no GPU"),
        ({"version": 11040}, "driver is too old: it knows CUDA 11.4"),
        ({"capability": 61}, "compute capability 6.1, but the kernels need 7.5"),
        ({"memory": NO_LAYER}, "too little for a single layer"),
        ({"fails": "cuInit"}, "does not start (cuInit: CUDA_ERROR_UNKNOWN)"),
    ],
)
def test_auto_says_why_it_takes_the_cpu(
    bundles: dict[str, Path], gpu: FakeGpu, settings: dict[str, object], words: str
) -> None:
    gpu.set(**settings)
    with Decoder(bundles["int4"], threads=1, device="auto") as decoder, decoder.session() as session:
        assert (decoder.description.device, decoder.description.gpu_layers) == ("cpu", 0)
        assert words in decoder.description.device_reason
        session.prefill([PROMPT[:5]])
    with pytest.raises(InputError, match="cannot run on a GPU here") as caught:
        Decoder(bundles["int4"], device="cuda")
    assert words in str(caught.value)


def test_without_a_driver_auto_takes_the_cpu(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALLEY2_CUDA_DRIVER", "no-such-library.so.1")
    with Decoder(bundles["int4"], threads=1, device="auto") as decoder:
        assert "there is no NVIDIA driver (no-such-library.so.1" in decoder.description.device_reason


def test_a_usable_gpu_is_described(decoder: Decoder) -> None:
    about = decoder.description
    assert (about.device, about.device_name, about.device_reason) == ("cuda", "Emulated GPU", "")
    assert about.gpu_layers == CONFIG.num_hidden_layers
    assert about.weight_bytes < about.gpu_bytes < about.weight_bytes + 10_000


def test_too_little_memory_for_the_layers_asked_for_is_refused(bundles: dict[str, Path], gpu: FakeGpu) -> None:
    gpu.set(memory=NO_LAYER)
    with pytest.raises(BudgetError, match=r"cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY"):
        Decoder(bundles["fp32"], device="cuda", gpu_layers=3)


def test_too_little_memory_for_the_cache_leaves_the_session_as_it_was(decoder: Decoder, gpu: FakeGpu) -> None:
    with decoder.session() as session:
        session.prefill([PROMPT[:10]])
        gpu.set(memory=NO_LAYER)
        with pytest.raises(BudgetError, match="GPU has not enough memory"):
            session.prefill([np.tile(PROMPT, 8)])
        assert session.length == 10
        gpu.set(memory=1 << 30)
        assert len(answer(session)) == GREEDY.max_new_tokens


@pytest.mark.parametrize("call", ["cuModuleLoadData", "cuStreamCreate", "cuLaunchKernel", "cuGraphLaunch"])
def test_a_call_that_fails_is_named(bundles: dict[str, Path], gpu: FakeGpu, call: str) -> None:
    def run() -> None:
        with Decoder(bundles["int4"], threads=1, device="cuda") as decoder, decoder.session() as session:
            session.prefill([PROMPT[:5]])
            answer(session)

    gpu.set(fails=call)
    with pytest.raises(Valley2Error, match=r"The GPU failed in \w+: CUDA_ERROR_UNKNOWN") as caught:
        run()
    assert ("v2e_" if call == "cuLaunchKernel" else call) in str(caught.value)


def test_an_upload_that_fails_leaves_auto_on_the_cpu(bundles: dict[str, Path], gpu: FakeGpu) -> None:
    gpu.set(memory=NO_LAYER)
    with Decoder(bundles["fp32"], threads=1, device="auto", gpu_layers=3) as decoder:
        assert decoder.description.device == "cpu"
        assert "cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY" in decoder.description.device_reason


def test_limits_of_the_device_are_measured(gpu: FakeGpu) -> None:
    gpu.set(memory=1 << 22)
    with Probe(device="cuda") as probe:
        gpu.record()
        assert probe.read("read") > 0
        with pytest.raises(InputError, match="no such limit"):
            probe.read("int8")
    assert gpu.calls().count("launch v2e_probe_copy") == 2


def test_plan_moves_layers_to_the_gpu(int4_bundle: Path) -> None:
    bundle = open_bundle(int4_bundle, check="sizes")
    layers = bundle.manifest.architecture.decoder.num_hidden_layers
    plans = [
        plan_memory(bundle, [], MemorySettings(context_length=512, device=device, gpu_layers=count, gpu_memory=1 << 40))
        for device, count in (("cpu", 0), ("cuda", 1), ("cuda", 0))
    ]
    cpu, part, whole = plans
    assert [plan.gpu_layers for plan in plans] == [0, 1, layers]
    assert cpu.gpu_bytes == 0 < part.gpu_bytes < whole.gpu_bytes
    for plan in plans:
        assert plan.kv_bytes + plan.gpu_kv_bytes == cpu.kv_bytes
    assert cpu.decoder_bytes > part.decoder_bytes > whole.decoder_bytes


def test_plan_asks_the_driver_how_much_is_free(int4_bundle: Path, gpu: FakeGpu) -> None:
    bundle = open_bundle(int4_bundle, check="sizes")
    settings = MemorySettings(context_length=512, device="cuda")
    gpu.set(memory=NO_LAYER)
    with pytest.raises(BudgetError, match=r"Not a single layer .* fits 1 MiB of the GPU"):
        plan_memory(bundle, [], settings)
    gpu.set(devices=0)
    with pytest.raises(InputError, match="no GPU to plan for: the NVIDIA driver finds no GPU"):
        plan_memory(bundle, [], settings)


def test_weights_leave_the_gpu_and_come_back(bundles: dict[str, Path], gpu: FakeGpu) -> None:
    with Decoder(bundles["int4"], threads=1, device="cuda") as stays, stays.session() as session:
        session.prefill([PROMPT])
        expected = [answer(session), answer(session)]
    with (
        Decoder(bundles["int4"], threads=1, device="cuda", offload_weights=True) as decoder,
        decoder.session() as session,
    ):
        session.prefill([PROMPT])
        gpu.record()
        found = [answer(session)]
        assert "cuMemAlloc_v2" not in gpu.calls()
        decoder.trim()
        freed = gpu.calls().count("cuMemFree_v2")
        decoder.trim()
        assert gpu.calls().count("cuMemFree_v2") == freed > 10
        found.append(answer(session))  # and what was recorded of a step is recorded anew
        assert gpu.calls().count("cuMemAlloc_v2") == freed and "cuGraphExecDestroy" in gpu.calls()
        assert found == expected
        decoder.trim()
        gpu.set(memory=NO_LAYER)  # somebody else took it
        with pytest.raises(BudgetError, match="GPU has not enough memory"):
            answer(session)
        gpu.set(memory=1 << 30)
        session.prefill([PROMPT[:4]])
        assert len(answer(session)) == 3


def test_weights_stay_unless_they_may_leave(decoder: Decoder, gpu: FakeGpu) -> None:
    gpu.record()
    decoder.trim()
    assert "cuMemFree_v2" not in gpu.calls()


def test_damaged_kernels_are_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "valley2.fatbin").write_bytes(b"no kernels at all, in sixty-four bytes or more of plain text....")
    with pytest.raises(Valley2Error, match="cuModuleLoadData"):
        Decoder(bundles["int4"], device="cuda")
