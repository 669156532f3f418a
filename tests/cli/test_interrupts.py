"""Ctrl-C and SIGTERM: a sentence, exit code 130, nothing half made, and the same command goes on."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cli_process import start

from valley2_edge.cli.interrupts import run_until_interrupted

CHECKPOINT = Path(__file__).parents[1] / "golden" / "ckpt" / "eagle_ovis"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be sent to one process")


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    """Reads stderr up to a line."""
    assert process.stderr is not None
    said = []
    for text in process.stderr:
        said.append(text)
        if text.strip() == line:
            return
    pytest.fail(f"{line!r} was never said: {said}")


def stop(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[str, str]:
    """Sends a signal; what stdout has, and the one sentence on stderr that may follow."""
    process.send_signal(number)
    try:
        output, error = process.communicate(timeout=60)
    finally:
        process.kill()  # where it did not hear
    assert process.returncode == 130, error
    assert "Traceback" not in error
    sentence = error.splitlines()[-1]
    assert sentence.startswith("valley2-edge: stopped")
    return output, sentence


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_export_keeps_what_is_finished_and_goes_on(run, tmp_path: Path, int4_bundle: Path, number: int) -> None:
    output = tmp_path / "my bundle"
    words = ["export", CHECKPOINT, "--method", "rtn", "--rotation", "hadamard", "--output", output]
    process = start(words, tmp_path)
    wait_for(process, "decoder")
    _, sentence = stop(process, number)
    partial = tmp_path / ".my bundle.partial"
    kept = {path.name for path in tmp_path.iterdir()}
    # The tiny decoder takes a moment: it may be finished when the signal arrives.
    assert f"are kept in {partial}; run the same command again to go on" in sentence and kept == {partial.name}
    assert "siglip, projector" in sentence
    outcome = run(*words)
    assert outcome.code == 0 and "siglip: weights" not in outcome.stderr
    assert {path.name for path in tmp_path.iterdir()} == {output.name}
    for name in ("decoder/decoder.safetensors", "vision/siglip.safetensors"):
        assert (output / name).read_bytes() == (int4_bundle / name).read_bytes()


def test_export_says_when_nothing_is_kept(tmp_path: Path) -> None:
    process = start(["export", CHECKPOINT, "--output", tmp_path / "out"], tmp_path)
    wait_for(process, "loading torch")
    _, sentence = stop(process)
    assert sentence == "valley2-edge: stopped; nothing is kept"
    assert not list(tmp_path.iterdir())


def test_convert_leaves_nothing_behind(tmp_path: Path, int4_bundle: Path) -> None:
    process = start(["convert", int4_bundle, tmp_path / "gptq"], tmp_path)
    wait_for(process, "loading torch")
    stop(process)
    assert not list(tmp_path.iterdir())


def test_verify_stops_while_it_hashes(tmp_path: Path, int4_bundle: Path) -> None:
    bundle = shutil.copytree(int4_bundle, tmp_path / "bundle")
    manifest = json.loads((bundle / "valley2.json").read_text())
    size = 1 << 40  # takes no room on the disk and an hour to hash
    with (bundle / "a_large_file").open("wb") as stream:
        stream.truncate(size)
    manifest["files"] = {"a_large_file": {"size": size, "sha256": "0" * 64}, **manifest["files"]}
    (bundle / "valley2.json").write_text(json.dumps(manifest))
    process = start(["verify", bundle, "--json"], tmp_path)
    wait_for(process, "checking files")
    output, sentence = stop(process)
    assert output == ""
    assert sentence == ("valley2-edge: stopped; nothing was compared yet; nothing is kept: run the same command again")


@pytest.mark.slow
def test_eval_says_how_far_it_came(tmp_path: Path, fp32_bundle: Path) -> None:
    process = start(["eval", "ecom-vqa", fp32_bundle, "--json"], tmp_path)
    wait_for(process, "questions")
    output, sentence = stop(process)
    assert output == ""
    assert "of 450 questions; an evaluation keeps nothing" in sentence


@pytest.mark.slow
def test_bench_prints_what_it_measured_as_json_and_removes_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    words = ("--shape", "tiny", "--layers", 1, "--lengths", 16, "--context", 8, "--repetitions", 2)
    process = start(["bench", *words, "--new-tokens", 4000, "--json"], tmp_path)
    wait_for(process, "decode")
    output, sentence = stop(process)
    content = json.loads(output)
    assert content["complete"] is False and content["prefill"]["positions"] == 16 and "decode" not in content
    assert content["machine"]["int8_gops"] > 0
    assert sentence == "valley2-edge: stopped; what was measured is above"
    assert not list(tmp_path.iterdir())


STUCK = """
import sys, time
from valley2_edge.cli.interrupts import Interrupted, leave, run_until_interrupted
try:
    run_until_interrupted(lambda: (print("begun", file=sys.stderr, flush=True), time.sleep(600)))
except Interrupted:
    leave("stopped; nothing is kept", {tidy})
"""


def stuck(tidy: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    code = STUCK.replace("{tidy}", tidy)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    wait_for(process, "begun")
    return process


def test_nobody_waits_for_work_that_hears_nothing() -> None:
    stop(stuck("None"))


def test_a_second_signal_ends_the_clearing_up() -> None:
    process = stuck("lambda: time.sleep(600)")
    process.send_signal(signal.SIGINT)
    wait_for(process, "valley2-edge: stopped; nothing is kept")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130


def test_a_signal_that_the_starter_ignores_stays_ignored() -> None:
    code = (
        "import signal, time, os; from valley2_edge.cli.interrupts import run_until_interrupted; "
        "signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "run_until_interrupted(lambda: os.kill(os.getpid(), signal.SIGINT)); print('finished')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "finished\n"


def test_results_errors_and_handlers_pass_through() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    assert run_until_interrupted(threading.current_thread) is not threading.main_thread()
    with pytest.raises(OSError, match="nothing"):
        run_until_interrupted(lambda: Path("there is nothing here").stat())
    assert {number: signal.getsignal(number) for number in before} == before
