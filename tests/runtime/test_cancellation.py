"""Stopping work from another thread and with Ctrl-C."""

from __future__ import annotations

import _thread
import threading

import pytest

from valley2_edge.errors import Cancelled
from valley2_edge.runtime.cancellation import CancelToken, run_interruptibly, run_until_cancelled


def test_cancel_calls_what_stops_the_running_work() -> None:
    token, stopped = CancelToken(), threading.Event()
    with token.stopping(stopped.set):
        token.cancel()
    assert stopped.is_set()


def test_nothing_begins_under_a_cancelled_token() -> None:
    token, stopped = CancelToken(), threading.Event()
    token.cancel()
    with pytest.raises(Cancelled), token.stopping(stopped.set):
        raise AssertionError
    with pytest.raises(Cancelled):
        token.check()
    token.clear()
    token.check()
    assert not stopped.is_set()


def test_finished_work_is_not_stopped() -> None:
    token, stopped = CancelToken(), threading.Event()
    with token.stopping(stopped.set):
        pass
    token.cancel()
    assert not stopped.is_set()


def test_results_and_errors_come_through() -> None:
    assert run_interruptibly(lambda: 3, lambda: None) == 3
    with pytest.raises(ZeroDivisionError):
        run_interruptibly(lambda: 1 // 0, lambda: None)


def test_interruption_stops_the_work_and_waits_for_its_end() -> None:
    stop, ended = threading.Event(), threading.Event()

    def work() -> None:
        stop.wait(60)
        ended.set()

    threading.Timer(0.2, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(work, stop.set)
    assert ended.is_set()


def test_other_threads_need_no_helper() -> None:
    names: list[str] = []

    def work() -> None:
        run_interruptibly(lambda: names.append(threading.current_thread().name), lambda: None)

    thread = threading.Thread(target=work, name="caller")
    thread.start()
    thread.join()
    assert names == ["caller"]


def test_results_and_errors_of_what_may_be_left_behind_come_through() -> None:
    assert run_until_cancelled(lambda: 3, CancelToken(), lambda: None) == 3
    with pytest.raises(ZeroDivisionError):
        run_until_cancelled(lambda: 1 // 0, CancelToken(), lambda: None)


def test_cancel_does_not_wait_for_work_that_ends_late() -> None:
    token, stopped, release, ended = CancelToken(), threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        release.wait(60)
        ended.set()

    threading.Timer(0.1, token.cancel).start()
    with pytest.raises(Cancelled):
        run_until_cancelled(work, token, stopped.set)
    assert stopped.is_set()
    assert not ended.is_set()
    release.set()
    assert ended.wait(60)


def test_interruption_does_not_wait_for_work_that_ends_late() -> None:
    stopped, release = threading.Event(), threading.Event()
    threading.Timer(0.2, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        run_until_cancelled(lambda: release.wait(60), CancelToken(), stopped.set)
    assert stopped.is_set()
    release.set()
