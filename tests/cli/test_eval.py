"""`valley2-edge eval` with a real, tiny bundle of random weights."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from valley2_edge.eval.questions.question import TASKS
from valley2_edge.runtime.core.tokenizer import Tokenizer


@pytest.fixture
def questions(tmp_path: Path, picture: Path) -> Path:
    line = {"question": "What?", "options": ["a", "b", "c", "d"], "answer": "B", "images": [picture.name]}
    lines = [{"id": "1", "task": "ocr", **line}, {"id": "2", "task": "my own", **line}]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_own_questions_as_json(run, fp32_bundle: Path, questions: Path) -> None:
    outcome = run("eval", "ecom-vqa", fp32_bundle, "--questions", questions, "--json")
    result = json.loads(outcome.stdout)
    assert outcome.code == 0
    assert list(result["tasks"]) == ["ocr", "my own"]
    assert set(result["tasks"]["ocr"]) == {"accuracy", "count", "low", "high", "plain_accuracy", "unparsed"}
    assert result["tasks"]["ocr"]["count"] == 1
    assert 0 <= result["low"] <= result["average"] <= result["high"] <= 1


def test_table_and_picture(run, fp32_bundle: Path, questions: Path, tmp_path: Path) -> None:
    words = ("--questions", questions, "--tasks", "ocr", "--picture", tmp_path / "result.png")
    outcome = run("eval", "ecom-vqa", fp32_bundle, *words)
    assert outcome.code == 0
    assert "average" in outcome.stdout and "my own" not in outcome.stdout
    assert Image.open(tmp_path / "result.png").width == 1000


def test_built_in_questions(run, fp32_bundle: Path) -> None:
    words = ("--count", 1, "--tasks", "video_content_retrieval,ocr", "--no-eagle", "--json")
    result = json.loads(run("eval", "ecom-vqa", fp32_bundle, *words).stdout)
    assert {task: found["count"] for task, found in result["tasks"].items()} == {
        "ocr": 1,
        "video_content_retrieval": 1,
    }
    assert result["what"] == "seed 0, without Eagle"


@pytest.mark.parametrize("switch", ["--no-tiles", "--text-only", "--think"])
def test_switches(run, fp32_bundle: Path, questions: Path, switch: str) -> None:
    words = ("--questions", questions, "--tasks", "ocr", "--threads", 1, "--activations", "int16", switch)
    words += ("--kv-precision", "int8")
    assert run("eval", "ecom-vqa", fp32_bundle, *words).code == 0


@pytest.mark.slow
def test_comparison(run, fp32_bundle: Path, int4_bundle: Path, questions: Path) -> None:
    words = ("--questions", questions, "--tasks", "ocr", "--reading", 1)
    outcome = run("eval", "compare", fp32_bundle, int4_bundle, *words, "--json")
    result = json.loads(outcome.stdout)
    assert outcome.code == 0
    assert (result["questions"], result["open_questions"]) == (1, 1)
    assert result["mean_kl"]["value"] > 0
    assert 0 <= result["same_top"]["value"] <= 1
    assert result["character_error_rate"]["change"]["value"] == pytest.approx(
        result["character_error_rate"]["b"]["value"] - result["character_error_rate"]["a"]["value"]
    )
    table = run("eval", "compare", fp32_bundle, int4_bundle, *words).stdout
    assert "mean KL(A || B)" in table and "character error rate of B" in table


@pytest.mark.slow
def test_comparison_of_kv_precisions(run, fp32_bundle: Path, questions: Path) -> None:
    words = ("--questions", questions, "--tasks", "ocr", "--reading", 1, "--json")

    def mean_kl(*more: str) -> float:
        outcome = run("eval", "compare", fp32_bundle, fp32_bundle, *words, *more)
        return float(json.loads(outcome.stdout)["mean_kl"]["value"])

    assert mean_kl() == 0
    assert mean_kl("--kv-precision-a", "int8", "--kv-precision-b", "int8") == 0
    assert 0 < mean_kl("--kv-precision-b", "fp16") < mean_kl("--kv-precision-b", "int8") < 0.05


def test_written_questions_can_be_asked(run, fp32_bundle: Path, tmp_path: Path) -> None:
    outcome = run("eval", "write", tmp_path / "set", "--count", 1)
    path = tmp_path / "set" / "questions.jsonl"
    assert outcome.stdout == f"{path}: 9 questions\n"
    assert [json.loads(line)["task"] for line in path.read_text().splitlines()] == list(TASKS)
    assert run("eval", "ecom-vqa", fp32_bundle, "--questions", path, "--tasks", "ocr").code == 0


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text("A red mug stands beside 12 lamps.\nIt costs $5.20.\n" * 3)
    return path


@pytest.fixture
def dialogues(tmp_path: Path, picture: Path) -> Path:
    lines = [{"prompt": f"Lamp {n}?", "answer": f"It costs ${n}.20."} for n in range(3)]
    path = tmp_path / "dialogues.jsonl"
    path.write_text("".join(json.dumps({**line, "images": [picture.name]}) + "\n" for line in lines))
    return path


def test_own_text_against_another_bundle(run, fp32_bundle: Path, int4_bundle: Path, text: Path) -> None:
    words = ("--text", text, "--against", fp32_bundle, "--window", 20, "--memory", "8GiB", "--threads", 1)
    outcome = run("eval", "text", int4_bundle, *words, "--json")
    result = json.loads(outcome.stdout)
    assert outcome.code == 0
    assert (result["bundle"], result["against"], result["window"]) == (str(int4_bundle), str(fp32_bundle), 20)
    assert result["tokens"] == len(Tokenizer(int4_bundle / "tokenizer").encode_text(text.read_text()))
    assert result["passages"] == -(-result["tokens"] // 19)
    measures = ("perplexity", "reference_perplexity", "perplexity_ratio", "mean_kl", "same_top")
    every = [*(result[name] for name in measures), *result["kl_percentiles"].values()]
    assert all(one["low"] <= one["value"] <= one["high"] for one in every)
    assert list(result["kl_percentiles"]) == ["50", "90", "99"]
    assert result["mean_kl"]["value"] > 0 and result["largest_kl"] >= result["kl_percentiles"]["99"]["value"]
    table = run("eval", "text", int4_bundle, *words).stdout
    for name in ("perplexity ratio", "same top token", "mean KL", "90th percentile of KL", "largest KL"):
        assert name in table
    assert f"{result['tokens']} tokens in {result['passages']} windows of {text}" in table


def test_perplexity_of_own_text_in_one_window_has_no_interval(run, fp32_bundle: Path, text: Path) -> None:
    result = json.loads(run("eval", "text", fp32_bundle, "--text", text, "--json").stdout)
    assert (result["passages"], result["window"], result["against"]) == (1, 512, None)
    assert result["perplexity"]["value"] > 1
    assert result["perplexity"]["low"] is None and result["perplexity"]["high"] is None
    assert "mean_kl" not in result


def test_own_answers_about_pictures(run, fp32_bundle: Path, int4_bundle: Path, dialogues: Path) -> None:
    words = ("--text", dialogues, "--against", fp32_bundle, "--kv-precision", "int8", "--activations", "int16")
    result = json.loads(run("eval", "text", int4_bundle, *words, "--limit", 2, "--memory", "8GiB", "--json").stdout)
    assert (result["passages"], result["left_out"], result["window"]) == (2, 0, None)
    tokenizer = Tokenizer(int4_bundle / "tokenizer")
    answers = [tokenizer.encode_text(f"It costs ${n}.20.") for n in (0, 1)]
    assert result["tokens"] == sum(len(answer) + 1 for answer in answers)  # with the stop token


def test_a_few_broken_lines_are_named_and_left_out(run, fp32_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "dialogues.jsonl"
    path.write_text('{"prompt": "Lamp?", "answer": "Yes."}\n' * 20 + "{\n")
    outcome = run("eval", "text", fp32_bundle, "--text", path, "--json")
    assert (json.loads(outcome.stdout)["passages"], json.loads(outcome.stdout)["left_out"]) == (20, 1)
    assert "line 21" in outcome.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "empty.txt has no text"),
        ("one.txt", b"a", "The text has 1 token"),
        ("latin.txt", b"caf\xe9", "latin.txt: the text is not UTF-8"),
        ("empty.jsonl", b"\n", "empty.jsonl is empty"),
        ("broken.jsonl", b"{", "line 1: it is not readable JSON"),
        ("keys.jsonl", b'{"prompt": "Lamp?"}', "line 1: answer"),
        ("gone.jsonl", b'{"prompt": "Lamp?", "answer": "Yes.", "images": ["gone.png"]}', "gone.png"),
    ],
)
def test_own_text_that_is_none(run, fp32_bundle: Path, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    outcome = run("eval", "text", fp32_bundle, "--text", tmp_path / name)
    assert (outcome.code, outcome.stdout) == (2, "")
    last = outcome.stderr.splitlines()[-1]
    assert last.startswith("valley2-edge: error: ") and message in last


def test_memory_that_one_bundle_keeps_and_two_do_not(
    run, fp32_bundle: Path, int4_bundle: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valley2_edge.eval.text_memory.resident_bytes", lambda: 0)

    def needed(*words: str | Path) -> float:
        outcome = run("eval", "text", int4_bundle, "--text", text, "--memory", "1MiB", *words)
        assert (outcome.code, outcome.stdout) == (2, "")
        found = re.search(r"needs? ([\d.]+) MiB of memory", outcome.stderr.splitlines()[-1])
        assert found is not None
        return float(found[1])

    one, two = needed(), needed("--against", fp32_bundle)
    assert one < two
    between = ("--text", text, "--memory", f"{(one + two) / 2}MiB")
    assert run("eval", "text", int4_bundle, *between).code == 0
    outcome = run("eval", "text", int4_bundle, *between, "--against", fp32_bundle)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "are open at the same time and need" in outcome.stderr.splitlines()[-1]


def test_bundles_with_different_tokenizers_have_no_common_tokens(run, fp32_bundle: Path, text: Path) -> None:
    outcome = run("eval", "text", fp32_bundle, "--text", text, "--against", "nano")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "have different tokenizers, so their tokens cannot be compared" in outcome.error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ecom-vqa", "BUNDLE", "--tasks", "oct"], "there is no task oct; there are image_understanding, ocr"),
        (["ecom-vqa", "BUNDLE", "--tasks", ","], "there is no task named"),
        (["ecom-vqa", "BUNDLE", "--questions", "none.jsonl"], "There is no file of questions at none.jsonl"),
        (["ecom-vqa", "BUNDLE", "--text-only", "--no-eagle"], "nothing to switch off"),
        (["ecom-vqa", "BUNDLE", "--picture", "result.jpg"], "does not end in .png"),
        (["ecom-vqa", "BUNDLE", "--count", "0"], "count"),
        (["ecom-vqa", "nowhere"], "nowhere"),
        (["compare", "BUNDLE", "nowhere"], "nowhere"),
        (["compare", "BUNDLE"], "Missing argument"),
        (["text", "BUNDLE"], "Missing option '--text'"),
        (["text", "BUNDLE", "--text", "none.txt"], "There is no file at none.txt"),
        (["text", "BUNDLE", "--text", "none.jsonl"], "no calibration file at none.jsonl"),
        (["text", "BUNDLE", "--text", "."], "is a directory"),
        (["text", "BUNDLE", "--text", "/dev/null", "--window", "1"], "--window"),
        (["text", "BUNDLE", "--text", "/dev/null", "--memory", "much"], "--memory"),
        (["text", "BUNDLE", "--text", "none.jsonl", "--window", "9"], "--window cuts a plain text"),
        (["text", "nowhere", "--text", "none.txt"], "nowhere is not a directory"),
        (["text", "BUNDLE", "--text", "none.txt", "--against", "nowhere"], "nowhere is not a directory"),
        (["write", "."], "exists already"),
        (["bench"], "No such command"),
    ],
)
def test_mistakes_are_one_line(run, fp32_bundle: Path, words: list[str], message: str) -> None:
    outcome = run("eval", *(str(fp32_bundle) if word == "BUNDLE" else word for word in words))
    assert (outcome.code, outcome.stdout) == (2, "")
    assert message in outcome.error


def test_alone_it_shows_its_commands(run) -> None:
    outcome = run("eval")
    assert outcome.code == 0
    assert all(command in outcome.stdout for command in ("ecom-vqa", "compare", "text", "write"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["ecom-vqa", "text"])
def test_eval_loads_neither_torch_nor_transformers_nor_onnx(
    fp32_bundle: Path, questions: Path, dialogues: Path, tmp_path: Path, command: str
) -> None:
    code = (
        "import sys; from valley2_edge.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, sorted({'torch', 'transformers', 'onnx'} & set(sys.modules)))"
    )
    own = {"ecom-vqa": ["--questions", str(questions), "--tasks", "ocr"], "text": ["--text", str(dialogues)]}
    words = ["eval", command, str(fp32_bundle), *own[command]]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"


def test_a_comparison_takes_the_names_of_every_other_command(run, questions: Path) -> None:
    words = ("--questions", questions, "--tasks", "ocr", "--reading", 0, "--json")
    outcome = run("eval", "compare", "nano", "nano", *words)
    assert outcome.code == 0, outcome.stderr
    assert json.loads(outcome.stdout)["mean_kl"]["value"] == 0


def test_a_second_bundle_that_is_missing_is_said_before_the_first_is_loaded(run, fp32_bundle: Path) -> None:
    outcome = run("eval", "compare", fp32_bundle, "nowhere")
    assert outcome.code == 2 and "nowhere" in outcome.error
