"""Loading a bundle, and what a program around it may expect: light imports and a GIL that is free."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from valley2_edge import BundleError, InputError, Valley2

HEAVY = ("torch", "transformers", "onnx", "cv2")


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)


def run_program(program: str, *arguments: str, directory: Path) -> str:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout


def test_import_loads_no_engine(tmp_path: Path) -> None:
    program = f"import sys, valley2_edge; print([m for m in {(*HEAVY, 'onnxruntime')!r} if m in sys.modules])"
    assert run_program(program, directory=tmp_path).strip() == "[]"


def test_whole_chat_loads_neither_torch_nor_transformers_nor_onnx(int4_bundle: Path, tmp_path: Path) -> None:
    program = f"""
import sys
import numpy
from valley2_edge import Valley2
with Valley2.load(sys.argv[1]) as model:
    text = "".join(model.chat("What?", images=[numpy.zeros((40, 60, 3), numpy.uint8)], max_new_tokens=8))
print([module for module in {HEAVY!r} if module in sys.modules], bool(text))
"""
    assert run_program(program, str(int4_bundle), directory=tmp_path).strip() == "[] True"


def test_answer_of_an_int4_bundle_does_not_depend_on_threads(int4_bundle: Path) -> None:
    answers = set()
    for threads in (1, 2):
        with Valley2.load(int4_bundle, threads=threads) as model:
            answers.add("".join(model.chat("Tell me", max_new_tokens=30)))
    assert len(answers) == 1


def test_load_reports_the_check_and_the_parts(fp32_bundle: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    Valley2.load(fp32_bundle, on_progress=lambda *step: steps.append(step)).close()
    assert steps[-3:] == [("load", 0, 2), ("load", 1, 2), ("load", 2, 2)]


def test_exception_of_progress_stops_the_load(fp32_bundle: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Valley2.load(fp32_bundle, on_progress=stop)


def test_missing_bundle_and_bad_options(fp32_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        Valley2.load(tmp_path)
    with pytest.raises(InputError, match="isa"):
        Valley2.load(fp32_bundle, isa="mmx")
    with pytest.raises(InputError, match="threads"):
        Valley2.load(fp32_bundle, threads=-1)


class Ticker:
    """A thread that only counts, as a program's window would redraw itself."""

    def __init__(self) -> None:
        self.longest_silence = 0.0
        self._stop = False

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._tick)
        thread.start()
        try:
            yield
        finally:
            self._stop = True
            thread.join()

    def _tick(self) -> None:
        last = time.perf_counter()
        while not self._stop:
            time.sleep(0.002)
            now = time.perf_counter()
            self.longest_silence = max(self.longest_silence, now - last)
            last = now


def test_other_threads_keep_running_in_every_stage(fp32_bundle: Path) -> None:
    stages: dict[str, float] = {}
    begin = time.perf_counter()
    ticker = Ticker()
    with ticker.running(), Valley2.load(fp32_bundle, threads=2) as model:
        session = model.session(eagle_preset="full", prefill_chunk=4096)
        list(session.ask("What?", images=[picture(1200, 1200)], max_new_tokens=30))
        numbers = session.statistics
        stages = {
            "load": numbers.vision_load_seconds,
            "eagle": numbers.eagle_seconds,
            "prefill": numbers.prefill_seconds,
        }
    elapsed = time.perf_counter() - begin
    # Eagle and the prefill are one native call each, and far longer than any silence that a free GIL allows.
    assert min(stages["eagle"], stages["prefill"]) > 2 * ticker.longest_silence, (stages, elapsed)
