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

from valley2_edge import Valley2, chosen_bundle, user_data
from valley2_edge.cli.answer_view import ProgressLine

CHECKPOINT = Path(__file__).parents[1] / "golden" / "ckpt" / "eagle_ovis"


def test_answer_is_what_the_api_gives_and_alone_on_stdout(run, fp32_bundle: Path, picture: Path) -> None:
    outcome = run("chat", picture, "What is it?", "--bundle", fp32_bundle, "--max-new-tokens", 12)
    with Valley2.load(fp32_bundle) as model:
        expected = "".join(model.chat("What is it?", images=[picture], max_new_tokens=12))
    assert outcome.code == 0
    assert outcome.stdout == expected + "\n"
    assert outcome.stderr == ""


def test_engines_are_shown_with_the_statistics_or_when_they_are_not_what_was_asked_for(
    run, graph_bundle: Path, picture: Path
) -> None:
    words = ("chat", picture, "What?", "--bundle", graph_bundle, "--max-new-tokens", 2)
    assert "vision engines: siglip on native" in run(*words, "--stats").stderr
    words += ("--vision-engine", "onnx")
    assert "vision engines: siglip on CPUExecutionProvider" in run(*words, "--stats").stderr
    assert run(*words, "--provider", "CPUExecutionProvider").stderr == ""


def test_provider_that_nothing_would_use_is_refused(run, fp32_bundle: Path, picture: Path) -> None:
    outcome = run("chat", picture, "What?", "--bundle", fp32_bundle, "--provider", "CPUExecutionProvider")
    assert outcome.code == 2 and "choose the vision_engine onnx" in outcome.stderr


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
    monkeypatch.setenv(chosen_bundle.BUNDLE_VARIABLE, str(fp32_bundle))
    assert run("chat", "Hello", "--max-new-tokens", 2).code == 0


def test_bundle_exported_last_is_found(run, fp32_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(chosen_bundle.BUNDLE_VARIABLE, raising=False)
    monkeypatch.setenv(user_data.DATA_DIRECTORY_VARIABLE, str(tmp_path / "data"))
    assert "no bundle is known" in run("chat", "Hello").error
    chosen_bundle.remember_bundle(fp32_bundle)
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert "(stopped; the conversation keeps the question and the answer so far)" in errors
    assert "ended by cancellation" in errors
    assert time.monotonic() - begin < 30


def interrupt_at(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """Presses Ctrl-C once, when a stage has done its first part."""
    pressed: list[int] = []

    def show(self: ProgressLine, name: str, done: int, total: int) -> None:
        if name == stage and not pressed:
            pressed.append(1)
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.3)  # prefill runs in a helper thread: the main one hears the signal within 0.1 s

    monkeypatch.setattr(ProgressLine, "__call__", show)


@pytest.mark.parametrize("stage", ["siglip", "prefill"])
def test_picture_outlives_ctrl_c_before_the_answer(
    run, fp32_bundle: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    interrupt_at(monkeypatch, stage)
    monkeypatch.setattr("sys.stdin", io.StringIO("What is it?\nWhat is this?\n"))
    outcome = run("chat", picture, "--bundle", fp32_bundle, "--max-new-tokens", 8, "--prefill-chunk", 64)
    with Valley2.load(fp32_bundle) as model:
        expected = "".join(model.chat("What is this?", images=[picture], max_new_tokens=8))
    assert outcome.stdout == f"{expected}\n"
    assert "(stopped; the picture stays for the next question)" in outcome.stderr


def test_picture_of_an_answer_that_was_stopped_half_way_is_in_the_context_once(
    run, fp32_bundle: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, "decode")
    monkeypatch.setattr("sys.stdin", io.StringIO("What is it?\nWhat is this?\n"))
    outcome = run("chat", picture, "--bundle", fp32_bundle, "--max-new-tokens", 8)
    with Valley2.load(fp32_bundle) as model:
        session = model.session()
        answer = session.ask("What is it?", images=[picture], max_new_tokens=8)
        begun = next(answer)
        expected = "".join(session.ask("What is this?", max_new_tokens=8))
    assert outcome.stdout == f"{begun}\n{expected}\n"


def test_picture_outlives_a_question_that_is_too_long(run, fp32_bundle: Path, picture: Path, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{'why ' * 200}\nWhat is this?\n"))
    outcome = run("chat", picture, "--bundle", fp32_bundle, "--max-new-tokens", 4, "--context-length", 450)
    with Valley2.load(fp32_bundle) as model:
        expected = "".join(model.chat("What is this?", images=[picture], max_new_tokens=4, context_length=450))
    assert outcome.stdout == f"{expected}\n"
    assert "positions" in outcome.stderr


@pytest.mark.slow
def test_commands_of_a_conversation_save_and_reset(
    run, fp32_bundle: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    lines = ("One?", f"/save {tmp_path}/talk", f"/save {picture}", f"/save {tmp_path}/notes.txt", f"/save {tmp_path}")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join((*lines, f"/save {tmp_path}/talk", "quit"))))
    before = picture.read_bytes()
    outcome = run("chat", "--bundle", fp32_bundle, "--max-new-tokens", 4)
    assert outcome.code == 0
    assert outcome.stderr.count(f"saved: {tmp_path}/talk") == 2
    assert outcome.stderr.count("would be lost") == 2 and "cannot be written" in outcome.stderr
    assert picture.read_bytes() == before and (tmp_path / "notes.txt").read_text() == "mine"
    assert "> One?" in run("chat", "Two?", "--bundle", fp32_bundle, "--resume", tmp_path / "talk").stderr


def test_resumed_conversation_keeps_its_own_options_after_a_reset(
    run, fp32_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("chat", "--bundle", fp32_bundle, "--max-new-tokens", 6)
    run(*words, "One?", "--system", "Be brief.", "--save", tmp_path / "talk")
    monkeypatch.setattr("sys.stdin", io.StringIO("/reset\nTwo?\n"))
    outcome = run(*words, "--resume", tmp_path / "talk")
    with Valley2.load(fp32_bundle) as model:
        expected = "".join(model.chat("Two?", system="Be brief.", max_new_tokens=6))
    assert outcome.stdout == f"{expected}\n"


@pytest.mark.slow
def test_stdin_gives_the_question_or_a_picture(fp32_bundle: Path, picture: Path, tmp_path: Path) -> None:
    words = ["--bundle", fp32_bundle, "--max-new-tokens", "4"]
    command = [sys.executable, "-m", "valley2_edge", "chat"]
    named = subprocess.run([*command, picture, "What?", *words], capture_output=True, check=True, cwd=tmp_path).stdout
    for given, content in (([picture, "-"], b"\xef\xbb\xbfWhat?\n"), (["-", "What?"], picture.read_bytes())):
        done = subprocess.run([*command, *given, *words], input=content, capture_output=True, check=True, cwd=tmp_path)
        assert done.stdout == named


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--top-p", "7"), "--top-p must be between 0 and 1, not 7"),
        (("--temperature", "nan"), "--temperature must be"),
        (("--max-new-tokens", "0"), "--max-new-tokens must be at least 1, not 0"),
        (("--frames", "0"), "--frames must be at least 1, not 0"),
        (("--threads", "-1"), "--threads is -1"),
        (("--context-length", "-1"), "--context-length is -1"),
        (("--seed", "-1"), "--seed must be at least 0, not -1"),
        (("--eagle-max-tokens", "0"), "--eagle-max-tokens must be between 1 and 16384, not 0"),
        (("--max-picture-pixels", "0"), "--max-picture-pixels must be between 1 and"),
        (("--vision-cache", "much"), "--vision-cache: 'much' is no amount of memory"),
        (("--provider", "NoProvider"), "--provider: providers must be among"),
        (("--memory", "0"), "--memory: '0' is no amount of memory"),
    ],
)
def test_options_are_checked_before_a_bundle_is_looked_for(
    run, tmp_path: Path, words: tuple[str, str], sentence
) -> None:
    outcome = run("chat", "What?", "--bundle", tmp_path / "none", *words)
    assert outcome.code == 2
    assert sentence in outcome.error


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
    words, saved = ("chat", "What?", "--bundle", fp32_bundle), tmp_path / "saved"
    run(*words, "--max-new-tokens", 2, "--save", saved)
    for options, sentence in (
        (("--save", tmp_path / "none" / "talk"), "cannot be written"),
        (("--save", tmp_path), "cannot be written"),
        (("--resume", tmp_path / "talk"), "there is no saved conversation at"),
        (("--resume", CHECKPOINT / "config.json"), "config.json is no saved conversation"),
        (("--resume", saved, "--no-eagle"), "--eagle is the saved conversation's own"),
    ):
        outcome = run(*words, *options)
        assert outcome.code == 2 and sentence in outcome.error
