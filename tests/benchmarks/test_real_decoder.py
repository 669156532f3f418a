"""The comparison on a trained decoder: its arithmetic, equal functions, windows and memory, without a download."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from valley2_edge.builtin import BUILTIN_BUNDLES
from valley2_edge.errors import InputError
from valley2_edge.options import LoadOptions

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "real_decoder"
BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]
SPACE, NEWLINE = "Ġ", "Ċ"

Import = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Import:
    """Imports a module of the benchmark."""
    monkeypatch.syspath_prepend(str(PROGRAM))
    return import_module


@pytest.fixture
def model(load: Import) -> Any:
    """A random Llama decoder of the width that the benchmark knows, with one layer and a vocabulary of bytes."""
    module = load("llama_decoder")
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<control_{index}>" for index in range(3, 17))]
    tokens += [*map(chr, BYTES), SPACE, NEWLINE]
    tokens += [chr(0x100 + index) for index in range(68) if chr(0x100 + index) not in (SPACE, NEWLINE)]
    shape = module.Shape(
        hidden=576, layers=1, heads=9, kv_heads=3, head_size=64, intermediate=96, vocabulary=len(tokens), context=1024,
        rms_epsilon=1e-5, rope_theta=1e5,
    )  # fmt: skip
    sizes = {
        "token_embd": (len(tokens), 576), "output_norm": (576,), "blk.0.attn_norm": (576,), "blk.0.ffn_norm": (576,),
        "blk.0.attn_q": (576, 576), "blk.0.attn_k": (192, 576), "blk.0.attn_v": (192, 576),
        "blk.0.attn_output": (576, 576), "blk.0.ffn_gate": (96, 576), "blk.0.ffn_up": (96, 576),
        "blk.0.ffn_down": (576, 96),
    }  # fmt: skip
    random = np.random.default_rng(0)
    tensors = {
        f"{name}.weight": (random.normal(1, 0.2, size) if len(size) == 1 else random.normal(0, 0.06, size)).astype("f4")
        for name, size in sizes.items()
    }
    return module.TrainedModel(shape, tensors, tokens, [], 17)


@pytest.fixture
def work(load: Import, tmp_path: Path) -> Any:
    for name in ("checkpoints", "bundles", "figures"):
        (tmp_path / name).mkdir()
    return load("work").WorkFolder(tmp_path)


def llama_logits(load: Import, tensors: dict[str, Any], shape: Any, ids: torch.Tensor) -> torch.Tensor:
    """What transformers' own Llama computes with these tensors."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size, rms_norm_eps=shape.rms_epsilon, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
    )  # fmt: skip
    llama = LlamaForCausalLM(config).float().eval()
    name_of = load("checkpoint").qwen2_name
    missing, unexpected = llama.load_state_dict(
        {name_of(name): torch.from_numpy(value) for name, value in tensors.items()}, strict=False
    )
    assert set(missing) <= {"lm_head.weight"}
    assert unexpected == []
    llama.tie_weights()
    with torch.inference_mode():
        return llama(ids).logits[0]


def test_rescaled_and_padded_weights_are_the_same_function(load: Import, model: Any) -> None:
    equivalent, shape = load("equivalent"), model.shape
    ids = torch.arange(20, 60)[None]
    expected = llama_logits(load, model.tensors, shape, ids)
    rescaled = equivalent.rescaled(model.tensors, shape)
    columns = rescaled["blk.0.ffn_gate.weight"] / model.tensors["blk.0.ffn_gate.weight"]
    # Every column has a factor of its own, the same for all its rows.
    assert np.ptp(columns, axis=0).max() < 1e-6
    assert columns[0].std() > 0.1
    torch.testing.assert_close(llama_logits(load, rescaled, shape, ids), expected, atol=1e-4, rtol=0)
    padded, wide = equivalent.padded(rescaled, shape), equivalent.padded_shape(shape)
    assert padded["blk.0.attn_q.weight"].shape == (768, 768)
    torch.testing.assert_close(llama_logits(load, padded, wide, ids), expected, atol=1e-4, rtol=0)


def test_rows_of_a_head_go_from_pairs_to_halves_and_back(load: Import) -> None:
    module = load("llama_decoder")
    rows = np.arange(8, dtype=np.float32)[:, None]  # two heads of four rows
    halves = module.halves_of_pairs(rows, 2)
    assert halves[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    np.testing.assert_array_equal(module.pairs_of_halves(halves, 2), rows)


@pytest.mark.parametrize("base", ["plain", "padded"])
def test_checkpoint_is_exported_and_its_bundle_measures_as_the_reference(
    load: Import, model: Any, work: Any, base: str
) -> None:
    for name in {"plain", base}:
        load("checkpoint").build_checkpoint(model, name, work.checkpoint(name))
    ids = np.random.default_rng(1).integers(17, model.shape.vocabulary, (3, 512), np.int32)
    np.save(work.windows, ids)
    reference = load("reference")
    assert reference.missing_windows(work, [0, 2]) == [0, 2]
    assert list(reference.compute_reference(work, ids, [0, 2], threads=1)) == [0, 2]
    assert reference.missing_windows(work, [0, 1, 2]) == [1]
    variant = load("variants").Export(("--precision", "fp16", "--group-size", "32"), base)
    bundles = load("bundles")
    assert bundles.export_variant("exact", variant, work) > 0
    seen: list[int] = []
    figures, facts = bundles.measure_bundle(
        work.bundle("exact"), [0, 2], ids, np.load(work.reference, mmap_mode="r"), LoadOptions(threads=1), seen.append
    )
    assert seen == [0, 2]
    assert figures.kl.shape == (2, 511)
    # What is rounded are keys, values and weights in fp16.
    assert 0 <= figures.kl.mean() < 1e-4
    assert figures.same_top.mean() > 0.98
    assert facts["bits"] == 16
    # Other windows make the reference worthless.
    np.save(work.windows, ids + 1)
    assert reference.missing_windows(work, [0]) == [0]


def test_bits_are_those_of_weights_scales_and_zero_points(load: Import) -> None:
    path = BUILTIN_BUNDLES["nano"] / "decoder" / "decoder.safetensors"
    # int4 in groups of 128, each with an fp16 scale and a zero point of 8 bits.
    assert load("bundles").layer_bits(path) == 4 + 24 / 128


def test_divergence_is_that_of_plain_arithmetic(load: Import) -> None:
    random = np.random.default_rng(0)
    logits, true = (random.normal(0, 4, (70, 1000)) for _ in range(2))
    following = random.integers(0, 1000, 70)
    log_p = true - np.log(np.exp(true).sum(-1, keepdims=True))
    log_q = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    kl, same_top, surprise, reference = load("figures").compare(
        logits.astype(np.float32), log_p.astype(np.float32), following.astype(np.int32)
    )
    np.testing.assert_allclose(kl, (np.exp(log_p) * (log_p - log_q)).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(same_top, true.argmax(-1) == logits.argmax(-1))
    np.testing.assert_allclose(surprise, -log_q[np.arange(70), following], rtol=1e-5)
    np.testing.assert_allclose(reference, -log_p[np.arange(70), following], rtol=1e-5)
    logits[3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        load("figures").compare(logits.astype(np.float32), log_p.astype(np.float32), following.astype(np.int32))


def test_windows_and_calibration_never_share_a_document(load: Import, model: Any, work: Any) -> None:
    windows = load("windows")
    tokenizer = load("tokenizer_files").trained_tokenizer(model)
    random = np.random.default_rng(0)
    prose = [" ".join(random.permutation(["alpha", "beta", "gamma", "delta"] * 400)) for _ in range(17)]
    documents = {f"py/{index}": text for index, text in enumerate(prose[1:])}
    documents |= {"lic/one": prose[0], "book/table": "1234567890 " * 400}
    lacking = windows.cut_windows(documents, tokenizer, work)
    # Numbers are no prose.
    assert lacking == {"book": 14, "rust2": 4, "info": 6, "man": 5, "pod": 4}
    ids, sources = np.load(work.windows), json.loads(work.sources.read_text())
    assert ids.shape == (15, 512)
    assert (ids[:, 0] == 0).all()
    used = {document for document, _ in sources}
    lines = [json.loads(line) for line in work.calibration.read_text().splitlines()]
    assert lines
    for line in lines:
        assert line["prompt"].startswith("Continue this text.\n\n")
        (document,) = {name for name in documents if line["answer"] in documents[name]}
        assert document not in used
        assert not document.startswith("lic/")
    before = work.calibration.read_bytes()
    windows.cut_windows(documents, tokenizer, work)
    np.testing.assert_array_equal(np.load(work.windows), ids)
    assert work.calibration.read_bytes() == before
    with pytest.raises(InputError, match="long enough"):
        windows.cut_windows({"py/short": "alpha"}, tokenizer, work)


def test_odd_windows_are_kept_aside(load: Import) -> None:
    assert load("windows").reported_windows(5, every=False) == [0, 2, 4]
    assert load("windows").reported_windows(5, every=True) == [0, 1, 2, 3, 4]


def test_result_is_found_again_for_the_same_options_and_windows_alone(load: Import, tmp_path: Path) -> None:
    results = load("results")
    key = results.Key("Export(('--method', 'rtn'))", "sha", (0, 2))
    results.Results(tmp_path / "results.jsonl").add("rtn", key, {"bits": 4.5})
    results.Results(tmp_path / "results.jsonl").add("rtn", key, {"bits": 4.25})
    found = results.Results(tmp_path / "results.jsonl")
    assert found.find("rtn", key)["bits"] == 4.25
    assert found.find("rtn", results.Key("Export(())", "sha", (0, 2))) is None
    assert found.find("rtn", results.Key("Export(('--method', 'rtn'))", "other", (0, 2))) is None
    assert found.find("rtn", results.Key("Export(('--method', 'rtn'))", "sha", (0, 2, 4))) is None
    assert found.find("nf4", key) is None


def figures_of(load: Import, window_kl: list[float], windows: list[int]) -> Any:
    kl = np.array(window_kl)[:, None] + np.zeros((1, 511))
    zeros = np.zeros_like(kl)
    return load("figures").Figures(np.array(windows), kl, kl < 0.5, kl + 1, zeros)


def test_pairs_are_compared_window_by_window(load: Import) -> None:
    table = load("table")
    figures = {"a": figures_of(load, [0.2, 1.0], [0, 2]), "b": figures_of(load, [0.1, 0.9], [0, 2])}
    (line,) = table.pairs_table([("a", "b")], figures)[2:]
    # The two windows differ widely, their differences do not: 0.1 each.
    assert "| +0.1000 (+0.1000 to +0.1000) | 1.20 |" in line
    assert f"{np.exp(0.1):.4f} ({np.exp(0.1):.4f} to {np.exp(0.1):.4f})" in line
    with pytest.raises(InputError, match="c of the pair a:c"):
        table.pairs_table([("a", "c")], figures)
    with pytest.raises(InputError, match="different windows"):
        table.pairs_table([("a", "c")], figures | {"c": figures_of(load, [0.2, 1.0], [0, 4])})


def test_table_begins_with_what_loses_least(load: Import, tmp_path: Path) -> None:
    figures = {"coarse": figures_of(load, [0.2, 1.0], [0, 2]), "fine": figures_of(load, [0.01, 0.03], [0, 2])}
    figures["fine"].save(tmp_path / "fine.npz")
    np.testing.assert_array_equal(load("figures").load_figures(tmp_path / "fine.npz").kl, figures["fine"].kl)
    rows = [
        {"name": name, "columns": 576, "bits": 4.375, **load("results").summary(value)}
        for name, value in figures.items()
    ]
    fine, coarse = load("table").results_table(json.loads(json.dumps(rows)))[2:]
    assert fine.startswith("| fine | 576 | 4.375 | 0.0200 (0.0100 to 0.0300) | 100.0% (100.0% to 100.0%) | 0.030 ")
    assert coarse.startswith("| coarse | 576 | 4.375 | 0.6000 (0.2000 to 1.0000) | 50.0% ")
    assert f"| {np.exp(1.6):.4f} ({np.exp(1.2):.4f} to {np.exp(2.0):.4f}) |" in coarse


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "int3"], "There is no variant int3"),
        (["--export-args", "--method rtn"], "NAME=ARGUMENTS"),
        (["--export-args", "default=--method rtn"], "a new name"),
        (["--pairs", "default"], "NAME:NAME"),
        (["--again", "fp16"], "fp16, which is not among"),
    ],
)
def test_mistake_is_named_before_anything_is_downloaded(tmp_path: Path, arguments: list[str], message: str) -> None:
    command = [sys.executable, str(PROGRAM), "--work", str(tmp_path / "work"), *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert not (tmp_path / "work").exists()
