"""How `valley2-edge eval` shows its results: tables for people, JSON for programs."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table

from valley2_edge.eval.compare import Comparison
from valley2_edge.eval.intervals import Estimate
from valley2_edge.eval.scoring import Score
from valley2_edge.eval.text import TextMeasure


def print_score(console: Console, score: Score) -> None:
    """Prints a row for each task and one for their average."""
    table = Table("task", *_right("cyclic", "95 % interval", "plain", "asked"))
    for task, result in score.tasks.items():
        share = result.accuracy
        row = (_percent(share.value), _percents(share), _percent(result.plain_accuracy))
        table.add_row(task, *row, str(result.count))
    table.add_section()
    row = (_percent(score.average.value), _percents(score.average), _percent(score.plain_average))
    table.add_row("average", *row, str(score.count))
    console.print(table)


def score_as_json(score: Score) -> dict[str, object]:
    """A score as `--json` prints it; shares are between 0 and 1."""
    tasks = {
        task: {
            "accuracy": result.accuracy.value,
            "count": result.count,
            "low": result.accuracy.low,
            "high": result.accuracy.high,
            "plain_accuracy": result.plain_accuracy,
            "unparsed": result.unparsed,
        }
        for task, result in score.tasks.items()
    }
    return {
        "tasks": tasks,
        "average": score.average.value,
        "low": score.average.low,
        "high": score.average.high,
        "plain_average": score.plain_average,
        "count": score.count,
        "unparsed": score.unparsed,
    }


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Prints a row for each measure of the comparison."""
    table = Table("measure", *_right("value", "95 % interval"))
    for name, score in (("A", comparison.score_a), ("B", comparison.score_b)):
        if score is not None:
            table.add_row(f"cyclic accuracy of {name}", _percent(score.average.value), _percents(score.average))
    if comparison.agreement is not None:
        table.add_row("same option", _percent(comparison.agreement.value), _percents(comparison.agreement))
    kl, top = comparison.mean_kl, comparison.same_top
    table.add_row("mean KL(A || B), nats", f"{kl.value:.4f}", f"{kl.low:.4f} to {kl.high:.4f}")
    table.add_row("same top token", _percent(top.value), _percents(top))
    rates = (
        ("character error rate of A", comparison.error_rate_a),
        ("character error rate of B", comparison.error_rate_b),
        ("its change from A to B", comparison.error_rate_change),
    )
    for name, rate in rates:
        if rate is not None:
            table.add_row(name, _percent(rate.value), _percents(rate))
    console.print(table)


def comparison_as_json(comparison: Comparison) -> dict[str, object]:
    """A comparison as `--json` prints it; a measure that was not taken is null."""
    return {
        "agreement": _as_json(comparison.agreement),
        "mean_kl": _as_json(comparison.mean_kl),
        "same_top": _as_json(comparison.same_top),
        "character_error_rate": {
            "a": _as_json(comparison.error_rate_a),
            "b": _as_json(comparison.error_rate_b),
            "change": _as_json(comparison.error_rate_change),
        },
        "ecom_vqa": {
            "a": score_as_json(comparison.score_a) if comparison.score_a else None,
            "b": score_as_json(comparison.score_b) if comparison.score_b else None,
        },
        "positions": comparison.positions,
        "questions": comparison.questions,
        "open_questions": comparison.open_questions,
    }


def print_text_measure(console: Console, measure: TextMeasure) -> None:
    """Prints a row for each measure of a text; a single passage has no intervals."""
    table = Table("measure", *_right("value", "95 % interval"))
    alone = measure.passages == 1

    def add(name: str, estimate: Estimate, pattern: str = "{:.4f}") -> None:
        limits = "" if alone else f"{pattern.format(estimate.low)} to {pattern.format(estimate.high)}"
        table.add_row(name, pattern.format(estimate.value), limits)

    add("perplexity", measure.perplexity)
    distance = measure.distance
    if distance is not None:
        add("perplexity of the reference", distance.reference_perplexity)
        add("perplexity ratio", distance.perplexity_ratio)
        table.add_row(
            "same top token", _percent(distance.same_top.value), "" if alone else _percents(distance.same_top)
        )
        add("mean KL, nats a token", distance.mean_kl, "{:.5f}")
        for percent, estimate in distance.kl_percentiles.items():
            add(f"{percent}th percentile of KL", estimate, "{:.5f}")
        table.add_row("largest KL", f"{distance.largest_kl:.5f}", "")
    console.print(table)


def text_measure_as_json(measure: TextMeasure) -> dict[str, object]:
    """What was measured on a text, as `--json` prints it; the limits of a single passage are null."""

    def estimate(found: Estimate) -> dict[str, float | None]:
        alone = measure.passages == 1
        return {"value": found.value, "low": None if alone else found.low, "high": None if alone else found.high}

    result: dict[str, object] = {
        "passages": measure.passages,
        "tokens": measure.tokens,
        "perplexity": estimate(measure.perplexity),
    }
    distance = measure.distance
    if distance is not None:
        result |= {
            "reference_perplexity": estimate(distance.reference_perplexity),
            "perplexity_ratio": estimate(distance.perplexity_ratio),
            "mean_kl": estimate(distance.mean_kl),
            "same_top": estimate(distance.same_top),
            "kl_percentiles": {str(percent): estimate(found) for percent, found in distance.kl_percentiles.items()},
            "largest_kl": distance.largest_kl,
        }
    return result


def _as_json(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _right(*names: str) -> list[Column]:
    return [Column(name, justify="right") for name in names]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _percents(estimate: Estimate) -> str:
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f} %"
