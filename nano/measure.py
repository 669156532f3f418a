"""Measures a trained checkpoint as docs/nano.md shows it: every precision, and each branch of vision switched off.

    python nano/measure.py build/nano/checkpoint --count 200 --json build/nano/accuracy.json

Every bundle is asked the same held-out questions. Accuracy is cyclic, with intervals of 95 %; the change against fp32
is paired, a bootstrap over the questions.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from valley2_edge.eval.ablation import inquiry_of
from valley2_edge.eval.edit_distance import edit_distance
from valley2_edge.eval.intervals import Estimate, bootstrap_ratio
from valley2_edge.eval.questions.benchmark import benchmark_questions, ocr_questions
from valley2_edge.eval.questions.question import TASKS, OpenQuestion
from valley2_edge.eval.run import ask_all
from valley2_edge.eval.scoring import Outcome, score
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.pipeline import export_bundle
from valley2_edge.export.rounding.options import RoundingOptions
from valley2_edge.precisions import DecoderPrecision
from valley2_edge.runtime.inquiry import Inquiry
from valley2_edge.runtime.model import Valley2

REFERENCE = "fp32"


@dataclass(frozen=True)
class View:
    """One way to ask."""

    name: str
    precision: DecoderPrecision
    eagle: bool = True
    tiles: bool = True
    text_only: bool = False


VIEWS = (
    View(REFERENCE, "fp32"),
    View("fp16", "fp16"),
    View("int8", "int8"),
    View("int4", "int4"),
    View("no tiles", "fp32", tiles=False),
    View("no Eagle", "fp32", eagle=False),
    View("text only", "fp32", text_only=True),
)


def main() -> None:
    """Measures as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--count", type=int, default=200, help="questions of each task")
    parser.add_argument("--reading", type=int, default=200, help="free-form questions that are read from a card")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--views", nargs="+", choices=[view.name for view in VIEWS], default=None)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, help="also write every figure here")
    arguments = parser.parse_args()
    questions = benchmark_questions(arguments.count, arguments.seed)
    reading = ocr_questions(arguments.reading, arguments.seed)
    views = [view for view in VIEWS if arguments.views is None or view.name in arguments.views]
    outcomes: dict[str, list[Outcome]] = {}
    errors: dict[str, Estimate] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for view in views:
            bundle = Path(scratch) / view.precision
            if not bundle.exists():
                nearest = RoundingOptions(method="rtn") if view.precision == "int4" else None
                options = ExportOptions(precision=view.precision, rounding=nearest)
                export_bundle(arguments.checkpoint, bundle, options)
            begin = time.perf_counter()
            with (
                Valley2.load(bundle, threads=arguments.threads, keep_vision=True) as model,
                inquiry_of(model, eagle=view.eagle, tiles=view.tiles) as inquiry,
            ):
                outcomes[view.name] = ask_all(inquiry, questions, text_only=view.text_only)
                errors[view.name] = _error_rate(inquiry, reading, view)
            print(f"{view.name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    _print_table(outcomes, errors)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(_figures(outcomes, errors), indent=1) + "\n", "utf-8")


def _error_rate(inquiry: Inquiry, reading: Sequence[OpenQuestion], view: View) -> Estimate:
    """Characters read wrong for each character of the truth."""
    wrong = []
    for asked in reading:
        inquiry.show(() if view.text_only else asked.images)
        wrong.append(edit_distance(inquiry.ask(asked.question).text.strip(), asked.answer))
    return bootstrap_ratio(wrong, [len(asked.answer) for asked in reading])


def _print_table(outcomes: Mapping[str, Sequence[Outcome]], errors: Mapping[str, Estimate]) -> None:
    scores = {name: score(found) for name, found in outcomes.items()}
    print("| task | " + " | ".join(scores) + " |")
    print("| --- |" + " --- |" * len(scores))
    for task in TASKS:
        print(f"| {task} | " + " | ".join(_percent(one.tasks[task].accuracy) for one in scores.values()) + " |")
    print("| **average** | " + " | ".join(f"**{_percent(one.average)}**" for one in scores.values()) + " |")
    print("| right answers, any order | " + " | ".join(f"{one.plain_average:.1%}" for one in scores.values()) + " |")
    print("| characters read wrong | " + " | ".join(_percent(error) for error in errors.values()) + " |")
    if REFERENCE in outcomes:
        changes = [_change(found, outcomes[REFERENCE]) for found in outcomes.values()]
        cells = (f"{100 * one.value:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})" for one in changes)
        print("| change against fp32, points | " + " | ".join(cells) + " |")


def _change(found: Sequence[Outcome], reference: Sequence[Outcome]) -> Estimate:
    """The change of the share of questions that are right; every task has equally many questions."""
    differences = [one.right - other.right for one, other in zip(found, reference, strict=True)]
    return bootstrap_ratio(differences, [1] * len(differences))


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})"


def _figures(outcomes: Mapping[str, Sequence[Outcome]], errors: Mapping[str, Estimate]) -> dict[str, object]:
    return {
        name: {
            "tasks": {task: asdict(one) for task, one in score(found).tasks.items()},
            "average": asdict(score(found).average),
            "character_error_rate": asdict(errors[name]),
            "wrong": [one.identifier for one in found if not one.right],
        }
        for name, found in outcomes.items()
    }


if __name__ == "__main__":
    main()
