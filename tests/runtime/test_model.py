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


@pytest.mark.slow
def test_whole_chat_loads_neither_torch_nor_transformers_nor_onnx(int4_bundle: Path, tmp_path: Path) -> None:
    program = f"""
import sys
import numpy
from valley2_edge import Valley2
with Valley2.load(sys.argv[1]) as model:
    session = model.session()
    list(session.ask("What?", images=[numpy.zeros((40, 60, 3), numpy.uint8)], max_new_tokens=8))
print([module for module in {HEAVY!r} if module in sys.modules], session.statistics.stop in ("length", "token"))
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
    """A thread that only notes the time, as a program's window would redraw itself."""

    def __init__(self) -> None:
        self._times: list[float] = []
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

    def count(self, begin: float, end: float) -> int:
        return sum(begin < time_ < end for time_ in self._times)

    def _tick(self) -> None:
        while not self._stop:
            time.sleep(0.002)
            self._times.append(time.perf_counter())


@pytest.mark.slow
def test_other_threads_keep_running_in_every_stage(fp32_bundle: Path) -> None:
    ends: dict[str, float] = {}  # of each stage, in the order in which they came

    def note(stage: str, _done: int, _total: int) -> None:
        ends[stage] = time.perf_counter()

    ticker = Ticker()
    with ticker.running():
        begin = time.perf_counter()
        with Valley2.load(fp32_bundle, threads=2) as model:
            note("load", 1, 1)
            session = model.session(eagle_preset="full", prefill_chunk=4096)
            list(session.ask("What?", images=[picture(1200, 1200)], max_new_tokens=60, on_progress=note))
    begins = [begin, *ends.values()]
    ticks = {stage: ticker.count(start, end) for start, (stage, end) in zip(begins, ends.items(), strict=False)}
    # Eagle (seconds) and the prefill (tenths of a second) are one native call each: one that kept the interpreter
    # would leave room for a tick or two at its ends.
    least = {"siglip": 20, "eagle": 20, "prefill": 5, "decode": 5}
    assert ticks.keys() == {"load", *least}  # the former is over in less than a tick
    assert all(ticks[stage] >= least[stage] for stage in least), ticks
