"""`valley2-edge eval`: how good a bundle's answers are, and what another bundle of the same model loses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from valley2_edge.chosen_bundle import resolve_bundle
from valley2_edge.cli.bundle_argument import BundleArgument, complete_bundle
from valley2_edge.cli.flags import Only, with_flags
from valley2_edge.cli.help_page import HelpfulCommand, HelpfulGroup, examples
from valley2_edge.cli.interrupts import Interrupted, leave, run_until_interrupted
from valley2_edge.cli.option_groups import FLAGS, size_reader
from valley2_edge.cli.terminal import StageProgress, error_console, output_console, print_line, stage_progress
from valley2_edge.errors import InputError
from valley2_edge.options import KvPrecision, LoadOptions

if TYPE_CHECKING:
    from valley2_edge.cli.text_file import TextFile
    from valley2_edge.eval.compare import Comparison
    from valley2_edge.eval.questions.question import Question
    from valley2_edge.eval.scoring import Outcome, Score
    from valley2_edge.eval.text import TextMeasure
    from valley2_edge.runtime.model import Valley2

app = typer.Typer(cls=HelpfulGroup, add_completion=False, rich_markup_mode=None)

QUESTIONS = "questions"
"""The stage of the progress in which the questions are asked."""
Result = TypeVar("Result")

Questions = Annotated[
    Path | None,
    typer.Option(metavar="FILE.jsonl", help="Your own questions (docs/evaluation.md) instead of the built-in ones."),
]
Count = Annotated[int, typer.Option(min=1, help="Number of built-in questions of each task.")]
Seed = Annotated[int, typer.Option(help="Random seed that the built-in questions are made from.")]
Tasks = Annotated[
    str | None, typer.Option(metavar="TASK,...", help="Tasks to ask about, separated by commas. By default all tasks.")
]
Load = Annotated[LoadOptions, Only(("threads", "activations", "providers", "vision_engine"))]
OwnText = Annotated[
    Path,
    typer.Option(
        metavar="FILE", help="A plain text in UTF-8, or a .jsonl file of prompts with answers, as for calibration."
    ),
]
Against = Annotated[
    Path | None,
    typer.Option(
        metavar="BUNDLE",
        help="The bundle to compare with, the unrounded one for example. By default only perplexity is measured.",
        autocompletion=complete_bundle,
    ),
]
WindowTokens = Annotated[
    int | None,
    typer.Option(min=2, help="Number of tokens that the model sees of a plain text at a time. By default 512."),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Most windows or lines to measure, spread evenly over the file. By default all."),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="Most memory of the process; nothing is measured when the bundles need more together."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.callback(invoke_without_command=True)
def entry(context: typer.Context) -> None:
    """Measure how good a bundle's answers are."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    "ecom-vqa",
    cls=HelpfulCommand,
    epilog=examples(
        "valley2-edge eval ecom-vqa nano",
        "valley2-edge eval ecom-vqa my-bundle --questions mine.jsonl --picture score.png",
    ),
)
@with_flags(FLAGS)
def ecom_vqa(
    bundle: BundleArgument = None,
    questions: Questions = None,
    count: Count = 50,
    seed: Seed = 0,
    tasks: Tasks = None,
    think: Annotated[bool, typer.Option("--think", help="Ask for answers in four steps.")] = False,
    eagle: Annotated[
        bool, typer.Option("--eagle/--no-eagle", help="Run the Eagle branch; without it its tokens are left out.")
    ] = True,
    tiles: Annotated[
        bool, typer.Option("--tiles/--no-tiles", help="Run SigLIP; without it the tiles' features are zeros.")
    ] = True,
    text_only: Annotated[
        bool, typer.Option("--text-only", help="Show no picture, to see what guessing gives.")
    ] = False,
    kv_precision: Annotated[KvPrecision, typer.Option(help="Precision of the KV cache.")] = "auto",
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the result into a picture as well.")
    ] = None,
    as_json: AsJson = False,
    *,
    load: Load,
) -> None:
    """Ask questions with four options, each in four orders; a question counts when all four answers are right."""
    if text_only and not (eagle and tiles):
        raise InputError("--text-only shows no picture, so --no-eagle and --no-tiles have nothing to switch off")
    from valley2_edge.cli.eval_view import print_score, score_as_json
    from valley2_edge.eval.ablation import inquiry_of
    from valley2_edge.eval.chart import check_picture_path, save_score
    from valley2_edge.eval.run import ask_all
    from valley2_edge.eval.scoring import score

    if picture is not None:
        check_picture_path(picture)
    asked = _questions(questions, count, seed, tasks)
    directory = resolve_bundle(bundle)
    begin = time.perf_counter()

    def work(progress: StageProgress) -> list[Outcome]:
        with (
            _load(directory, load, progress) as model,
            inquiry_of(model, eagle=eagle, tiles=tiles, kv_precision=kv_precision) as inquiry,
        ):
            return ask_all(inquiry, asked, think=think, text_only=text_only, on_progress=partial(progress, QUESTIONS))

    outcomes = _ask(work)
    result, seconds = score(outcomes), time.perf_counter() - begin
    what = _describe(questions, seed, eagle, tiles, text_only, think)
    if picture is not None:
        save_score(result, picture, directory.resolve().name, f"{what}, {result.count} questions")
    if as_json:
        settings = {"bundle": str(directory), "what": what, "kv_precision": kv_precision, "seconds": round(seconds, 3)}
        typer.echo(json.dumps({**score_as_json(result), **settings}, indent=2))
        return
    console = output_console()
    print_score(console, result)
    print_line(console, f"{directory}: {what}, {seconds:.1f} s; {_unparsed(result)}random letters give 0.4 %")


@app.command(
    "compare",
    cls=HelpfulCommand,
    epilog=examples("valley2-edge eval compare my-bundle-fp16 my-bundle-int4 --count 10"),
)
@with_flags(FLAGS)
def compare_bundles(
    first: Annotated[
        Path,
        typer.Argument(metavar="A", help="The bundle to compare with.", autocompletion=complete_bundle),
    ],
    second: Annotated[
        Path,
        typer.Argument(metavar="B", help="Another bundle of the same model.", autocompletion=complete_bundle),
    ],
    questions: Questions = None,
    count: Count = 20,
    seed: Seed = 0,
    tasks: Tasks = None,
    reading: Annotated[
        int,
        typer.Option(min=0, help="Number of built-in questions that ask to read, for the character error rate."),
    ] = 100,
    kv_precision_a: Annotated[KvPrecision, typer.Option(help="Precision of A's KV cache.")] = "auto",
    kv_precision_b: Annotated[KvPrecision, typer.Option(help="Precision of B's KV cache.")] = "auto",
    as_json: AsJson = False,
    *,
    load: Load,
) -> None:
    """Ask two bundles the same questions: agreement, divergence of their distributions, and reading errors."""
    from valley2_edge.bundle import read_manifest
    from valley2_edge.cli.eval_view import comparison_as_json, print_comparison
    from valley2_edge.eval.ablation import inquiry_of
    from valley2_edge.eval.compare import check_comparable, compare
    from valley2_edge.eval.questions.benchmark import ocr_questions

    asked, read = _questions(questions, count, seed, tasks), ocr_questions(reading, seed)
    if not asked and not read:
        raise InputError("there is no question to compare the bundles with: --reading 0 leaves none")
    one, other = resolve_bundle(first), resolve_bundle(second)
    for directory in (one, other):
        read_manifest(directory)

    def work(progress: StageProgress) -> Comparison:
        with (
            _load(one, load, progress) as model_a,
            _load(other, load, progress) as model_b,
        ):
            check_comparable(model_a.bundle, model_b.bundle)
            with (
                inquiry_of(model_a, kv_precision=kv_precision_a) as inquiry_a,
                inquiry_of(model_b, kv_precision=kv_precision_b) as inquiry_b,
            ):
                return compare(inquiry_a, inquiry_b, asked, read, on_progress=partial(progress, QUESTIONS))

    comparison = _ask(work)
    if as_json:
        settings = {"a": str(first), "b": str(second)}
        settings |= {"kv_precision_a": kv_precision_a, "kv_precision_b": kv_precision_b}
        typer.echo(json.dumps({**comparison_as_json(comparison), **settings}, indent=2))
        return
    console = output_console()
    print_comparison(console, comparison)
    counts = f"{comparison.questions} questions in four orders, {comparison.open_questions} free-form ones"
    print_line(console, f"A is {first}, B is {second}; {counts}, {comparison.positions} positions of A's answers")


@app.command(
    "text",
    cls=HelpfulCommand,
    epilog=examples(
        "valley2-edge eval text my-bundle-int4 --text notes.txt --against my-bundle-fp16",
        "valley2-edge eval text my-bundle-int4 --text dialogues.jsonl --limit 50",
    ),
)
@with_flags(FLAGS)
def measure(
    bundle: BundleArgument = None,
    *,
    text: OwnText,
    against: Against = None,
    window: WindowTokens = None,
    limit: Limit = None,
    kv_precision: Annotated[KvPrecision, typer.Option(help="Precision of the measured bundle's KV cache.")] = "auto",
    memory: MemoryLimit = None,
    as_json: AsJson = False,
    load: Load,
) -> None:
    """Measure how well a bundle predicts your own text, and how far it is from another bundle of the same model."""
    from valley2_edge.bundle import open_bundle
    from valley2_edge.cli.eval_view import print_text_measure, text_measure_as_json
    from valley2_edge.cli.text_file import read_text_file
    from valley2_edge.eval.compare import check_comparable

    limit_bytes = None if memory is None else size_reader("--memory")(memory)
    directories = [resolve_bundle(named) for named in ((bundle,) if against is None else (bundle, against))]
    opened = [open_bundle(directory, check="sizes") for directory in directories]
    if against is not None:
        check_comparable(opened[1], opened[0])
    content = read_text_file(text, window, limit)
    begin = time.perf_counter()
    found = _ask(partial(_measure, directories, content, load, kv_precision, limit_bytes), content.stage)
    seconds = time.perf_counter() - begin
    if as_json:
        settings: dict[str, object] = {"bundle": str(directories[0]), "text": str(text)}
        settings["against"] = None if against is None else str(directories[1])
        settings |= {"window": content.window, "left_out": len(content.left_out), "kv_precision": kv_precision}
        typer.echo(json.dumps({**text_measure_as_json(found), **settings, "seconds": round(seconds, 3)}, indent=2))
        return
    console = output_console()
    print_text_measure(console, found)
    compared = "" if against is None else f" against {directories[1]}"
    unit = content.stage if found.passages > 1 else content.stage.removesuffix("s")
    counts = f"{found.tokens} tokens in {found.passages} {unit} of {text}"
    print_line(console, f"{directories[0]}{compared}: {counts}, {seconds:.1f} s")


@app.command("write", cls=HelpfulCommand, epilog=examples("valley2-edge eval write my-questions --count 3"))
def write(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that is made for them.")],
    count: Count = 5,
    seed: Seed = 0,
    tasks: Tasks = None,
) -> None:
    """Write built-in questions as a JSONL file with PNG pictures: a pattern for questions of your own."""
    from valley2_edge.eval.questions_file import write_questions

    questions = _questions(None, count, seed, tasks)
    print_line(output_console(), f"{write_questions(directory, questions)}: {len(questions)} questions")


def _measure(
    directories: Sequence[Path],
    content: TextFile,
    load: LoadOptions,
    kv_precision: KvPrecision,
    limit_bytes: int | None,
    progress: StageProgress,
) -> TextMeasure:
    """Measures the first bundle, against the second where there is one; both are open at the same time."""
    from valley2_edge.eval.text import measure_text
    from valley2_edge.eval.text_memory import check_text_memory

    # How the decoder computes is a question about the measured bundle; the reference keeps the defaults.
    loads = (load, replace(load, activations="auto"))
    with ExitStack() as stack:
        models = [
            stack.enter_context(_load(directory, options, progress))
            for directory, options in zip(directories, loads, strict=False)
        ]
        passages = content.passages(models[0].engines.tokenizer)
        if limit_bytes is not None:
            check_text_memory(list(zip(models, loads, (kv_precision, "auto"), strict=False)), passages, limit_bytes)
        against = models[1] if len(models) > 1 else None
        on_progress = partial(progress, content.stage)
        return measure_text(models[0], passages, against, kv_precision=kv_precision, on_progress=on_progress)


def _questions(path: Path | None, count: int, seed: int, tasks: str | None) -> list[Question]:
    wanted = [task.strip() for task in tasks.split(",") if task.strip()] if tasks is not None else None
    if path is None:
        from valley2_edge.eval.questions.benchmark import benchmark_questions
        from valley2_edge.eval.questions.question import TASKS

        return benchmark_questions(count, seed, _checked(wanted, TASKS))
    from valley2_edge.eval.questions_file import read_questions

    questions = read_questions(path)
    chosen = _checked(wanted, list(dict.fromkeys(question.task for question in questions)))
    return [question for question in questions if question.task in chosen]


def _checked(wanted: list[str] | None, known: Sequence[str]) -> Sequence[str]:
    if wanted is None:
        return known
    unknown = [task for task in wanted if task not in known]
    if unknown or not wanted:
        raise InputError(f"there is no task {unknown[0] if unknown else 'named'}; there are {', '.join(known)}")
    return [task for task in known if task in wanted]


def _ask(work: Callable[[StageProgress], Result], asked: str = QUESTIONS) -> Result:
    """Asks the questions, or what `asked` names, with their progress on stderr; a signal ends it with a sentence."""
    reached = ""
    try:
        with stage_progress(error_console()) as show:

            def progress(stage: str, done: int, total: int) -> None:
                nonlocal reached
                if stage == asked:
                    reached = f" after {done} of {total} {asked}"
                show(stage, done, total)

            return run_until_interrupted(lambda: work(progress))
    except Interrupted:
        leave(f"stopped{reached}; an evaluation keeps nothing: run the same command again, or with fewer {asked}")


def _load(directory: Path, load: LoadOptions, progress: StageProgress) -> Valley2:
    from valley2_edge.runtime.model import Valley2

    return Valley2.load(directory, load, keep_vision=True, on_progress=progress)


def _describe(questions: Path | None, seed: int, eagle: bool, tiles: bool, text_only: bool, think: bool) -> str:
    """What was asked, and how, in a few words."""
    words = [f"seed {seed}" if questions is None else questions.name]
    switches = (
        (text_only, "text only"),
        (not eagle, "without Eagle"),
        (not tiles, "without SigLIP"),
        (think, "four steps"),
    )
    return ", ".join([*words, *(name for on, name in switches if on)])


def _unparsed(result: Score) -> str:
    return f"{result.unparsed} answers name no option; " if result.unparsed else ""
