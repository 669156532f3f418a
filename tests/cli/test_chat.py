"""`valley2-edge chat` with a real, tiny bundle."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_process import start
from PIL import Image

from valley2_edge import Valley2, user_data


def test_answer_is_what_the_api_gives_and_alone_on_stdout(run, fp32_bundle: Path, picture: Path) -> None:
    outcome = run("chat", picture, "What is it?", "--bundle", fp32_bundle, "--max-new-tokens", 12)
    with Valley2.load(fp32_bundle) as model:
        expected = "".join(model.chat("What is it?", images=[picture], max_new_tokens=12))
    assert outcome.code == 0
    assert outcome.stdout == expected + "\n"
    assert "vision engines: siglip on " in outcome.stderr


def test_options_change_the_answer_as_in_the_api(run, fp32_bundle: Path, picture: Path) -> None:
    words = "--policy repo --system S --temperature 0.9 --top-k 20 --top-p 0.9 --min-p 0.01 --repetition-penalty 1.1"
    words += " --seed 7 --max-new-tokens 9 --eagle-preset fast --eagle-min-tokens 16 --no-tiles --kv-precision int8"
    outcome = run("chat", picture, "What?", "--bundle", fp32_bundle, *words.split())
    with Valley2.load(fp32_bundle) as model:
        session = model.session(
            policy="repo", system="S", eagle_preset="fast", eagle_min_tokens=16, tiles=False, kv_precision="int8"
        )
        sampling = {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1, "seed": 7}
        expected = "".join(session.ask("What?", images=[picture], max_new_tokens=9, **sampling))
    assert outcome.stdout == expected + "\n"


def test_several_pictures(run, fp32_bundle: Path, picture: Path) -> None:
    outcome = run("chat", picture, picture, "Which?", "--bundle", fp32_bundle, "--max-new-tokens", 3, "--stats")
    assert outcome.code == 0
    assert "2 pictures" in outcome.stderr


def test_animated_picture_is_a_video_when_it_is_named_so(run, fp32_bundle: Path, tmp_path: Path) -> None:
    first, *rest = [Image.new("RGB", (60, 40), (80 * index, 0, 0)) for index in range(3)]
    first.save(tmp_path / "clip.gif", save_all=True, append_images=rest)
    words = ("--bundle", fp32_bundle, "--max-new-tokens", 2, "--stats")
    assert "3 pictures" in run("chat", "What happens?", "--video", tmp_path / "clip.gif", *words).stderr
    picture = run("chat", tmp_path / "clip.gif", "What is it?", *words).stderr
    assert "1 picture" in picture and "only the first is used" in picture
    both = run("chat", tmp_path / "clip.gif", "What?", "--video", tmp_path / "clip.gif", *words)
    assert "not about both" in both.error
    assert "there is no picture or video at" in run("chat", "What?", "--video", tmp_path / "none.gif", *words).error


def test_stats_tell_the_tokens_of_each_branch(run, fp32_bundle: Path, picture: Path) -> None:
    words = ("--bundle", fp32_bundle, "--max-new-tokens", 3, "--stats")
    both = run("chat", picture, "?", *words).stderr
    # 60 x 40 pixels: 196 tokens of the global view, 10 un-padded rows of 14; 84 x 56 pixels for Eagle.
    assert "2 tiles, 336 tokens" in both
    assert " 6 tokens" in both
    assert "Eagle" in both and "Eagle" not in run("chat", picture, "?", *words, "--no-eagle").stderr
    assert "1 tiles, 196 tokens" in run("chat", picture, "?", *words, "--no-tiles").stderr


def test_stats_tell_what_drafts_were_worth(run, fp32_bundle: Path) -> None:
    repeating = ("--repetition-penalty", 0.4, "--max-new-tokens", 40)
    words = ("chat", "One?", "--bundle", fp32_bundle, *repeating, "--stats", "--speculation")
    always, off = run(*words, "always"), run(*words, "off")
    assert always.stdout == off.stdout
    assert "drafted tokens" in always.stderr and "tokens/step" in always.stderr
    assert "drafted" not in off.stderr
    assert run(*words, "sometimes").code == 2


def test_variable_names_the_bundle(run, fp32_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(user_data.BUNDLE_VARIABLE, str(fp32_bundle))
    assert run("chat", "Hello", "--max-new-tokens", 2).code == 0


def test_bundle_exported_last_is_found(run, fp32_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(user_data.BUNDLE_VARIABLE, raising=False)
    monkeypatch.setenv(user_data.DATA_DIRECTORY_VARIABLE, str(tmp_path / "data"))
    assert "no bundle is known" in run("chat", "Hello").error
    user_data.remember_bundle(fp32_bundle)
    assert run("chat", "Hello", "--max-new-tokens", 2).code == 0


def test_conversation_remembers_until_reset(run, fp32_bundle: Path, picture: Path, monkeypatch) -> None:
    lines = f"/image {picture}\nWhat is it?\nAre you sure?\n/reset\nAre you sure?\n/quit\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    outcome = run("chat", "--bundle", fp32_bundle, "--max-new-tokens", 8)
    with Valley2.load(fp32_bundle) as model:
        session, fresh = model.session(), model.session()
        expected = ["".join(session.ask("What is it?", images=[picture], max_new_tokens=8))]
        expected += ["".join(session.ask("Are you sure?", max_new_tokens=8))]
        expected += ["".join(fresh.ask("Are you sure?", max_new_tokens=8))]
    assert outcome.code == 0
    assert outcome.stdout == "".join(f"{answer}\n" for answer in expected)


def test_chat_loads_neither_torch_nor_transformers_nor_onnx(fp32_bundle: Path, picture: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from valley2_edge.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, sorted({'torch', 'transformers', 'onnx'} & set(sys.modules)))"
    )
    words = ["chat", str(picture), "What?", "--bundle", str(fp32_bundle), "--max-new-tokens", "2"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process")
def test_interrupt_ends_one_answer_with_130(fp32_bundle: Path, tmp_path: Path) -> None:
    process = start(["chat", "Hello", "--bundle", fp32_bundle, "--max-new-tokens", 30_000], tmp_path)
    first = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (first + rest).endswith("\n")
    assert errors.splitlines()[-1] == "valley2-edge: cancelled"
    assert "Traceback" not in errors


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process")
def test_interrupt_leaves_a_conversation_usable(fp32_bundle: Path, tmp_path: Path) -> None:
    process = start(["chat", "--bundle", fp32_bundle, "--max-new-tokens", 30_000], tmp_path)
    process.stdin.write("Hello\n")
    process.stdin.flush()
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    process.stdin.write("/stats\n/quit\n")
    begin = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "(cancelled)" in errors
    assert "ended by cancellation" in errors
    assert time.monotonic() - begin < 30


def test_saved_conversation_goes_on(run, fp32_bundle: Path, picture: Path, tmp_path: Path) -> None:
    file, words = tmp_path / "talk", ("--bundle", fp32_bundle, "--max-new-tokens", 6)
    with Valley2.load(fp32_bundle) as model:
        session = model.session(system="Be brief.")
        expected = ["".join(session.ask("What?", images=[picture], max_new_tokens=6))]
        expected += ["".join(session.ask("And now?", max_new_tokens=6))]
    first = run("chat", picture, "What?", *words, "--system", "Be brief.", "--save", file)
    assert (first.code, first.stdout.strip()) == (0, expected[0].strip()) and f"saved: {file}" in first.stderr
    second = run("chat", "And now?", *words, "--resume", file, "--save", file)
    assert (second.code, second.stdout.strip()) == (0, expected[1].strip())
    assert "> What? [pictures: 1]" in second.stderr
    third = run("chat", "And now?", *words, "--resume", file)
    assert "> And now?" in third.stderr


def test_mistakes_about_saved_conversations_are_one_line(run, fp32_bundle: Path, tmp_path: Path) -> None:
    words = ("chat", "What?", "--bundle", fp32_bundle)
    for options, sentence in (
        (("--save", tmp_path / "none" / "talk"), "cannot be written"),
        (("--save", tmp_path), "cannot be written"),
        (("--resume", tmp_path / "talk"), "Cannot open"),
        (("--resume", tmp_path / "talk", "--no-eagle"), "--eagle is the saved conversation's own"),
    ):
        outcome = run(*words, *options)
        assert outcome.code == 2 and sentence in outcome.error
