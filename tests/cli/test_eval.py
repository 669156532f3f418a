"""`valley2-edge eval` with a real, tiny bundle of random weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from valley2_edge.eval.questions.question import TASKS


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
    assert all(command in outcome.stdout for command in ("ecom-vqa", "compare", "write"))


@pytest.mark.slow
def test_eval_loads_neither_torch_nor_transformers_nor_onnx(fp32_bundle: Path, questions: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from valley2_edge.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, sorted({'torch', 'transformers', 'onnx'} & set(sys.modules)))"
    )
    words = ["eval", "ecom-vqa", str(fp32_bundle), "--questions", str(questions), "--tasks", "ocr"]
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
