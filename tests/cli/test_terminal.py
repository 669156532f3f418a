"""Progress without a terminal: few lines, each with the time that is left."""

from __future__ import annotations

import io

from rich.console import Console

from valley2_edge.cli.terminal import LineProgress


def lines_of(steps: list[tuple[float, str, int, int]]) -> list[str]:
    """What is printed when these stages are told at these seconds."""
    stream = io.StringIO()
    now = 0.0
    progress = LineProgress(Console(file=stream), lambda: now)
    for now, stage, done, total in steps:  # noqa: B007
        progress(stage, done, total)
    return stream.getvalue().splitlines()


def test_a_stage_is_named_once_and_not_again_within_ten_seconds() -> None:
    assert lines_of([(0, "decoder", 0, 8), (1, "decoder", 1, 8), (9, "decoder", 7, 8), (9, "decoder", 8, 8)]) == [
        "decoder"
    ]


def test_the_time_left_follows_from_what_was_done() -> None:
    assert lines_of([(0, "decoder", 0, 100), (20, "decoder", 25, 100), (40, "decoder", 50, 100)]) == [
        "decoder",
        "decoder: 25%, about 60 s left",
        "decoder: 50%, about 40 s left",
    ]


def test_what_an_earlier_run_did_is_no_measure_of_speed() -> None:
    # 90 of 100 layers were there at the beginning.
    assert lines_of([(0, "decoder", 90, 100), (600, "decoder", 91, 100)])[1:] == ["decoder: 91%, about 90 min left"]


def test_lines_become_fewer_after_a_minute() -> None:
    said = lines_of([(second, "decoder", second, 3600) for second in range(0, 181, 5)])
    assert len(said) == 1 + 5 + 2  # its name; at 10, 20, 30, 40 and 50 s; at 110 and 170 s


def test_a_stage_of_no_known_length_is_named_only() -> None:
    assert lines_of([(0, "check", 0, 0), (100, "check", 0, 0)]) == ["check"]
